"""Memory and speed of passes over particles that are streamed from disk.

    python benchmarks/streaming.py FOLDER [--particles 1500 4500 15000] [--box 128] [--timed 600] [--write]

Makes stacks of noise in FOLDER (1 GB at 15 000 particles of 128 px; remove it afterwards). Then, each in a
process of its own:

memory   peak resident memory (VmHWM) of one local iteration of `reconstruct refine` over N particles
read     one bare pass over the images of one half-set: from memory, from the particle store, from the stacks;
         the page cache is dropped beforehand, and `disk_mb` is what the kernel read for the pass (/proc/self/io)
search   the same, with a local search of all poses at full band and the sums for the map

Prints one JSON line per measurement; --write keeps them in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emflow.em.images import ImageSet
from emflow.em.masks import soft_sphere
from emflow.em.pose_fit import FittedPoses
from emflow.io.particle_images import image_set, poses_of
from emflow.io.particle_store import open_store
from emflow.io.particles import load_particles
from emflow.io.stack import stack_header
from emflow.io.star import write_star
from emflow.reconstruct.config import ReconstructRefine
from emflow.reconstruct.refine import HalfState, Refinement

RESULTS = Path(__file__).parent / "results" / "streaming.json"
PIXEL = 2.0
SHARD = 500
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Held:
    """Fourier pixels in memory, as the store has them on disk."""

    values: Tensor
    scale: float

    def read(self, rows: Tensor, count: int) -> Tensor:
        """First pixels of some images."""
        return self.values[rows, :count]


def make(folder: Path, box: int, counts: list[int], different: int | None = None) -> None:
    """Stacks of noise with random poses, and one table per count; of ``different`` images that come again and again."""
    random = np.random.default_rng(0)
    names = []
    for shard in range(-(-(different or max(counts)) // SHARD)):
        path = folder / f"shard{shard:03d}.mrcs"
        names += [f"{image + 1:06d}@{path}" for image in range(SHARD)]
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.standard_normal((SHARD, box, box), dtype=np.float32)
        path.write_bytes(stack_header(SHARD, box, PIXEL) + pixels.tobytes())
    names *= -(-max(counts) // len(names))
    optics = pd.DataFrame(
        {"rlnOpticsGroup": ["1"], "rlnImagePixelSize": [str(PIXEL)], "rlnImageSize": [str(box)],
         "rlnVoltage": ["300"], "rlnSphericalAberration": ["2.7"], "rlnAmplitudeContrast": ["0.07"]}
    )  # fmt: skip
    for count in counts:
        spread = {
            "rlnCoordinateX": (0, 4000), "rlnCoordinateY": (0, 4000), "rlnDefocusU": (8e3, 25e3),
            "rlnDefocusV": (8e3, 25e3), "rlnDefocusAngle": (0, 180), "rlnAngleRot": (-180, 180),
            "rlnAngleTilt": (0, 180), "rlnAnglePsi": (-180, 180), "rlnOriginXAngst": (-4, 4),
            "rlnOriginYAngst": (-4, 4),
        }  # fmt: skip
        columns: dict[str, Any] = {
            name: [f"{value:.5f}" for value in random.uniform(*limits, count)]
            for name, limits in spread.items()
        }
        columns["rlnImageName"] = names[:count]
        columns["rlnMicrographName"] = [f"micrographs/{row // 100:06d}.mrc" for row in range(count)]
        columns["rlnRandomSubset"] = [str(row // 100 % 2 + 1) for row in range(count)]
        columns["rlnOpticsGroup"] = "1"
        table = pd.DataFrame(columns, dtype=object)
        write_star(folder / f"particles{count}.star", {"optics": optics, "particles": table})


def start(folder: Path, count: int) -> tuple[ImageSet, Refinement, HalfState, Path]:
    """A half-set with poses and a reference, its images read from the store."""
    particles = load_particles(folder / f"particles{count}.star")
    images = image_set(particles, CPU)
    extent = images.box * images.pixel_size_angstrom
    refinement = Refinement(images, 0.6 * extent, ReconstructRefine(global_iterations=0))
    path = folder / f"store{count}"
    store = open_store(path, particles, images, refinement.plane)
    images = replace(images, spectra=store)
    refinement.images = images
    rows = images.rows(1)
    rotations, shifts = poses_of(particles, images.pixel_size_angstrom)
    noise = torch.ones(1, int(refinement.plane.shell[-1]) + 1)
    random = torch.Generator().manual_seed(0)
    volume = torch.randn((images.box,) * 3, generator=random) * soft_sphere(images.box, 0.3 * images.box, 4)
    poses = FittedPoses.unknown(len(rows)).at(rotations[rows], shifts[rows])
    half = HalfState(rows, volume, noise, replace(poses, covariance=1e-3 * poses.covariance))
    return images, refinement, half, path


def memory(folder: Path, count: int) -> dict[str, Any]:
    """One iteration over all particles, both halves."""
    images, refinement, _, _ = start(folder, count)
    volume = torch.zeros((images.box,) * 3)
    state = refinement.begin((volume, volume), torch.zeros(images.box // 2 + 1))
    refinement.iterate(state)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return {"peak_mb": round(peak / 1024, 1), "cpu_s": round(time.process_time(), 1)}


def drop(path: Path) -> None:
    """Drop a file from the page cache."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def disk_bytes() -> int:
    """Bytes that the kernel fetched from disks for this process."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes")))


def speed(folder: Path, count: int, source: str, band_fraction: float, search: bool) -> dict[str, Any]:
    """Wall time of a pass from memory, from the store or from the stacks, the page cache dropped."""
    images, refinement, half, path = start(folder, count)
    plane = refinement.plane.within(band_fraction * refinement.nyquist)
    store = images.spectra
    assert store is not None
    if source == "memory":
        images = replace(images, spectra=Held(store.read(torch.arange(len(images)), len(plane)), store.scale))
    if source == "stacks":
        images = replace(images, spectra=None)
    refinement.images = images
    for file in (path, *folder.glob("*.mrcs")):
        drop(file)
    before, wall, cpu = disk_bytes(), time.perf_counter(), time.process_time()
    if search:
        found, _ = refinement.find_poses(half, refinement.nyquist, False, torch.Generator())
        refinement.accumulate(found)
    else:
        total = 0.0
        for _, transforms, _ in images.batches(half.rows, plane):
            total += float(transforms[0, 0, 0])
    return {
        "particles": len(half.rows),
        "wall_s": round(time.perf_counter() - wall, 3),
        "cpu_s": round(time.process_time() - cpu, 3),
        "disk_mb": round((disk_bytes() - before) / 1e6, 1),
    }


def measure(*words: str, program: str = __file__) -> dict[str, Any]:
    """One measurement of a program in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, program, *words]
    answer = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    line: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    print(json.dumps(line), flush=True)
    return line


def main() -> None:
    """All measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--particles", type=int, nargs="+", default=[1500, 4500, 15000])
    parser.add_argument("--timed", type=int, default=600)
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = given.folder
    if given.child:
        torch.set_flush_denormal(True)
        kind, count, *more = given.child
        line: dict[str, Any] = {"measured": kind, "of": int(count), "box_px": given.box}
        if kind == "memory":
            line |= memory(folder, int(count))
        else:
            line |= {"source": more[0], "band": float(more[1])}
            line |= speed(folder, int(count), more[0], float(more[1]), kind == "search")
        print(json.dumps(line))
        return
    most = max(given.particles)
    make(folder, given.box, sorted({*given.particles, given.timed}))
    box = ["--box", str(given.box)]
    runs = [["memory", str(count)] for count in given.particles]
    sources = ("memory", "store", "stacks")
    runs += [["read", str(most), source, band] for band in ("1.0", "0.25") for source in sources]
    runs += [["search", str(given.timed), source, "1.0"] for source in sources]
    lines = [measure(str(folder), *box, "--child", *words) for words in runs]
    if given.write:
        note = "noise; one thread; page cache dropped with posix_fadvise before each timed pass"
        kept = {"command": "python benchmarks/streaming.py FOLDER --write", "note": note, "results": lines}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()

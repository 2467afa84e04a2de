"""Two-dimensional classes: junk removed from simulated stacks without a person, and class averages beside RELION's.

    python benchmarks/classify.py FOLDER [junk noise averages relion real] [--seeds 0 1] [--snrs 0.05 0.1]

junk: stacks cut out of simulated micrographs, of 1 200 to 1 280 good particles and up to 80 of each kind of junk
(empty boxes, carbon edges, ice crystals, aggregates, broken particles), through `emflow classify run` and `select`
with nothing but the diameter given. noise: white noise with the same CTFs. averages: 1 000 particles of 64 px and
SNR 0.1, 20 classes, each average against the mean of the true projections under its own assignment (FRC 0.5);
relion: the same from `relion_refine` (nice -n 19; iterations given by --relion-iterations). real: apoferritin's
picks in a folder of results (--results) against published centres. What stands in results/classify.json is not
measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from scipy.spatial import KDTree
from torch import Tensor

from emflow.classify.model import raw_average
from emflow.em.fsc import frc, resolution_at
from emflow.em.masks import soft_sphere
from emflow.em.poses import euler_to_matrix
from emflow.em.slices import HalfPlane, complex_product, volume_spectrum
from emflow.em.turns import Turns
from emflow.io.mrc import map_mrc, read_header, read_mrc, write_mrc
from emflow.io.star import Tables, floats, integers, read_star, write_star

RESULTS = Path(__file__).parent / "results" / "classify.json"
SPECIMENS = {
    "c1": ["--mass-kda", "450", "--diameter-angstrom", "200"],
    "d2": ["--mass-kda", "80", "--symmetry", "D2", "--diameter-angstrom", "170"],
}
PIXEL, SIDE, EACH = 3.0, 1024, 80
RELION = "--tau2_fudge 2 --ctf --flatten_solvent --zero_mask --psi_step 12 --offset_range 5 --offset_step 2 --norm --scale"


def run(*words: str) -> float:
    """Run a command; return its CPU-seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def emflow(*words: str) -> float:
    """Run a command of emflow; return its CPU-seconds."""
    return run(sys.executable, "-m", "emflow.cli", *words)


def session(folder: Path, specimen: str, snr: float, seed: int, *more: str) -> None:
    """Simulate micrographs, without carbon and aggregates unless asked for."""
    if (folder / "truth" / "facts.json").is_file():
        return
    none = [
        w
        for n in ("--n-carbon-micrographs", "--aggregates-per-micrograph")
        if n not in more
        for w in (n, "0")
    ]
    emflow("simulate", "session", str(folder), *SPECIMENS[specimen], "--pixel-size-angstrom", str(PIXEL),
           "--snr", str(snr), "--seed", str(seed), *more, *none)  # fmt: skip


def make_stack(folder: Path, specimen: str, snr: float, seed: int) -> None:
    """Cut good particles and junk out of micrographs that hold only one kind each."""
    if (folder / "particles.star").is_file():
        return
    empty = ("--particles-per-micrograph", "0")
    mics = {
        "good": ["--n-micrographs", "16", "--broken-fraction", "0.05", "--n-noise-micrographs", "2"],
        "carbon": [*empty, "--n-micrographs", "3", "--n-carbon-micrographs", "3"],
        "aggregate": [*empty, "--n-micrographs", "4", "--aggregates-per-micrograph", "4"],
        "ice": [*empty, "--n-micrographs", "4", "--ice-crystals-per-micrograph", "6", "--keep-clean"],
    }
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, float, float, str]] = []
    listed, optics = [], pd.DataFrame()
    for name, more in mics.items():
        session(folder / name, specimen, snr, seed, *more)
        tables = read_star(folder / name / "truth" / "micrographs.star")
        optics, table = tables["optics"], tables["micrographs"]
        links = []
        for path in table["rlnMicrographName"]:
            link = folder / "micrographs" / f"{name}_{Path(path).name}"
            link.parent.mkdir(exist_ok=True)
            if not link.exists():
                os.link(folder / name / path, link)
            links.append(str(link))
        listed.append(
            table.assign(rlnMicrographName=links)[[c for c in map(str, table) if not c.startswith("emflow")]]
        )
        rows += places(folder / name, name, links, float(SPECIMENS[specimen][-1]) / PIXEL, rng)
    columns = pd.Index(["rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "emflowKind"])
    picks = pd.DataFrame(rows, columns=columns)
    parts = [
        own.sample(min(len(own), 16 * EACH if kind == "good" else EACH), random_state=seed)
        for kind, own in picks.groupby("emflowKind")
    ]
    picks = pd.concat(parts).sort_index()
    picks = picks.assign(**{c: [f"{v:.2f}" for v in picks[c]] for c in ("rlnCoordinateX", "rlnCoordinateY")})
    write_star(folder / "picks.star", {"particles": picks.astype(object)})
    write_star(
        folder / "micrographs.star", {"optics": optics, "micrographs": pd.concat(listed).astype(object)}
    )
    micrographs = str(folder / "micrographs.star")
    emflow("extract", "run", micrographs, micrographs, str(folder / "picks.star"), str(folder / "particles.star"),
           "--diameter-angstrom", SPECIMENS[specimen][-1], "--contrast", "dark")  # fmt: skip


def places(
    folder: Path, name: str, links: list[str], diameter: float, rng: np.random.Generator
) -> list[tuple[str, float, float, str]]:
    """Where to cut, in the micrographs of one kind: name, x, y, kind."""
    rows: list[tuple[str, float, float, str]] = []

    def add(kind: str, link: str, xy: np.ndarray) -> None:
        inside = np.all((xy > 0.75 * diameter) & (xy < SIDE - 0.75 * diameter), 1)
        rows.extend((link, float(x), float(y), kind) for x, y in xy[inside])

    if name == "good":
        for kind, file in (("good", "particles"), ("broken", "broken")):
            table = read_star(folder / "truth" / f"{file}.star")["particles"]
            at = np.stack([floats(table, "rlnCoordinateX"), floats(table, "rlnCoordinateY")], 1)
            own = np.array([f"good_{Path(p).name}" for p in table["rlnMicrographName"]])
            for link in links[:-2]:
                here = at[own == Path(link).name]
                add(kind, link, here + rng.normal(0, 0.03 * diameter, here.shape))  # a picker's error
        for link in links[-2:]:
            add("empty", link, rng.uniform(0, SIDE, (EACH, 2)))
        return rows
    for link in links:
        file = Path(link).name.removeprefix(f"{name}_")
        if name == "ice":
            clean = read_mrc(folder / "truth" / "clean" / file)
            smooth = ndimage.gaussian_filter(clean, 2)
            near = ndimage.binary_opening(
                np.abs(smooth - np.median(smooth)) > 0.004 * np.median(clean), iterations=2
            )
        else:
            mask = read_mrc(folder / "truth" / "masks" / file) > 0.5
            depth = ndimage.distance_transform_edt(mask)
            if name == "carbon":
                near = (depth < diameter / 2) & (ndimage.distance_transform_edt(~mask) < diameter / 3)
            else:
                near = depth > 0.5 * diameter
        add(name, link, rng.permutation(np.argwhere(near)[:, ::-1])[: 2 * EACH].astype(float))
    return rows


def classify(star: Path, out: Path, *more: str) -> float:
    """Run and select; return CPU-seconds."""
    cost = emflow("classify", "run", str(star), str(out / "run"), *more)
    return cost + emflow("classify", "select", str(out / "run"), str(out))


def kept_of(star: Path, out: Path) -> np.ndarray:
    """Which rows of a particle table are in selected.star."""
    ids = read_star(star)["particles"]["emflowParticleId"]
    return ids.isin(read_star(out / "selected.star")["particles"].get("emflowParticleId", [])).to_numpy()


def measure_junk(folder: Path, specimen: str, snr: float, seed: int) -> dict[str, object]:
    """Junk removed and good particles lost on one stack."""
    folder = folder / "sets" / f"{specimen}_{snr:g}_{seed}"
    make_stack(folder, specimen, snr, seed)
    star, out = folder / "particles.star", folder / "classify"
    cost = classify(star, out, "--diameter-angstrom", SPECIMENS[specimen][-1])
    kind, kept = read_star(star)["particles"]["emflowKind"].to_numpy(), kept_of(star, out)
    good = kind == "good"
    verdicts = json.loads((out / "verdicts.json").read_text())
    return {
        "particles": len(kind),
        "junk": int((~good).sum()),
        "junk_removed": round(float(1 - kept[~good].mean()), 3),
        "good_lost": round(float(1 - kept[good].mean()), 3),
        **{
            f"{k}_removed": round(float(1 - kept[kind == k].mean()), 3)
            for k in sorted(set(kind))
            if k != "good"
        },
        "classes": json.loads((out / "metrics.json").read_text())["classes"],
        "cpu_s": round(cost, 1),
        "verdicts": [row["verdict"] for row in verdicts],
    }


def averages_stack(folder: Path) -> Path:
    """1 000 particles with known poses."""
    stack = folder / "averages"
    if not (stack / "particles.star").is_file():
        emflow("simulate", "particles", str(stack), "--n-particles", "1000", "--box-px", "64", "--snr", "0.1",
               "--seed", "5", "--max-shift-px", "3", "--diameter-angstrom", "200")  # fmt: skip
    return stack


def measure_noise(folder: Path) -> dict[str, object]:
    """The stack of the averages with its images replaced by white noise."""
    stack, noise = averages_stack(folder), folder / "noise"
    noise.mkdir(exist_ok=True)
    shape, voxel = (
        map_mrc(stack / "particles.mrcs").shape,
        read_header(stack / "particles.mrcs").voxel_size_angstrom,
    )
    pixels = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    write_mrc(noise / "particles.mrcs", pixels, voxel)
    write_star(noise / "particles.star", read_star(stack / "particles.star"))
    cost = classify(noise / "particles.star", noise / "classify", "--diameter-angstrom", "200")
    verdicts = json.loads((noise / "classify" / "verdicts.json").read_text())
    kept = int(kept_of(noise / "particles.star", noise / "classify").sum())
    return {
        "particles": len(pixels),
        "kept": kept,
        "verdicts": [v["verdict"] for v in verdicts],
        "cpu_s": round(cost, 1),
    }


def measure_averages(stack: Path, tables: Tables, averages: Tensor) -> dict[str, object]:
    """FRC of averages (K, n, n) with the mean of the true projections that were put into each."""
    pixel = read_header(stack / "particles.mrcs").voxel_size_angstrom
    truth = read_star(stack / "truth" / "particles.star")["particles"]
    table = (
        tables["particles"].set_index(tables["particles"]["emflowParticleId"]).loc[truth["emflowParticleId"]]
    )
    number = torch.from_numpy(integers(table, "rlnClassNumber")) - 1
    volume = torch.from_numpy(read_mrc(stack / "truth" / "volume.mrc"))
    n = volume.shape[-1]
    plane = HalfPlane.build(n, n // 2 - 1)
    angles = torch.from_numpy(np.stack([floats(truth, f"rlnAngle{a}") for a in ("Rot", "Tilt", "Psi")], 1))
    off = [
        torch.from_numpy(np.stack([floats(t, f"rlnOrigin{a}Angst") for a in "XY"], 1)).float() / pixel
        for t in (table, truth)
    ]
    slices = volume_spectrum(volume, n // 2 - 1).slices(euler_to_matrix(angles).float(), plane)
    slices = complex_product(slices, plane.phases(off[0] - off[1]))
    psi = torch.from_numpy(floats(table, "rlnAnglePsi")).float()
    disc = soft_sphere(n, 100 / pixel * 1.1, 4.0, 2)
    resolution, weight = [], []
    for k in number.unique().tolist():
        rows = torch.nonzero(number == k)[:, 0]
        turns = Turns.build(plane, psi[rows])
        true = raw_average(turns.insert(slices[rows][None], torch.ones(1, len(rows), len(plane))), turns)[0]
        curve = frc(averages[k] * disc, true * disc)
        curve[0] = 1
        resolution.append(resolution_at(curve, 0.5, n, pixel, interpolate=True) or n * pixel)
        weight.append(len(rows))
    order = np.argsort(resolution)
    share = np.cumsum(np.array(weight)[order]) / sum(weight)
    return {
        "classes_filled": len(weight),
        "largest_class": max(weight),
        "resolution_median_angstrom": round(
            float(np.array(resolution)[order][np.searchsorted(share, 0.5)]), 1
        ),
        "resolution_mean_angstrom": round(1 / float(np.average(1 / np.array(resolution), weights=weight)), 1),
    }


def measure_ours(folder: Path) -> dict[str, object]:
    """Our averages at 20 classes."""
    stack = averages_stack(folder)
    out = stack / "classify"
    cost = emflow("classify", "run", str(stack / "particles.star"), str(out), "--n-classes", "20",
                  "--diameter-angstrom", "200")  # fmt: skip
    averages = torch.from_numpy(read_mrc(out / "classes.mrcs"))
    return {**measure_averages(stack, read_star(out / "particles.star"), averages), "cpu_s": round(cost, 1)}


def measure_relion(folder: Path, iterations: int) -> dict[str, object]:
    """RELION's averages at 20 classes."""
    stack = averages_stack(folder)
    out = stack / "relion"
    out.mkdir(exist_ok=True)
    cost = run("env", "-C", str(stack), "nice", "-n", "19", "relion_refine", "--o", "relion/run", "--i", "particles.star",
               "--K", "20", "--iter", str(iterations), "--particle_diameter", "220", *RELION.split())  # fmt: skip
    last = f"run_it{iterations:03d}"
    averages = torch.from_numpy(read_mrc(out / f"{last}_classes.mrcs"))
    found = measure_averages(stack, read_star(out / f"{last}_data.star"), averages)
    return {**found, "iterations": iterations, "cpu_s": round(cost, 1)}


def measure_real(folder: Path, results: Path, data: Path) -> dict[str, object]:
    """Apoferritin's picks: those far from any published centre, and those near one."""
    out = folder / "apoferritin"
    table = read_star(results / "extract" / "particles.star")
    stacks = [
        f"{n.partition('@')[0]}@{results / 'extract' / Path(n).name}"
        for n in table["particles"]["rlnImageName"]
    ]
    star = out / "particles.star"
    write_star(star, {**table, "particles": table["particles"].assign(rlnImageName=stacks)})
    cost = classify(star, out, "--diameter-angstrom", "130")
    kept, particles = kept_of(star, out), table["particles"]
    distance = np.empty(len(particles))
    at = np.stack([floats(particles, "rlnCoordinateX"), floats(particles, "rlnCoordinateY")], 1)
    for name, rows in particles.groupby("rlnMicrographName").indices.items():
        centres = pd.read_csv(data / "apoferritin" / f"{Path(str(name)).stem}.csv").to_numpy(dtype=float)[
            :, -2:
        ]
        distance[rows] = KDTree(centres).query(at[rows])[0]
    far, near = distance > 30, distance <= 30
    return {
        "picks": len(kept),
        "far": int(far.sum()),
        "far_removed": round(float(1 - kept[far].mean()), 3),
        "near": int(near.sum()),
        "near_lost": round(float(1 - kept[near].mean()), 3),
        "cpu_s": round(cost, 1),
    }


def keep(name: str, result: dict[str, object]) -> None:
    """Write a result beside the others."""
    kept = (
        json.loads(RESULTS.read_text())
        if RESULTS.is_file()
        else {"command": "python benchmarks/classify.py FOLDER"}
    )
    kept[name] = result
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    print(name, json.dumps(result), flush=True)


def main() -> None:
    """Measure what is asked for and not yet known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("results/bench-classify"))
    parser.add_argument("parts", nargs="*", default=["junk", "noise", "averages", "relion"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--snrs", type=float, nargs="+", default=[0.1, 0.05])
    parser.add_argument("--relion-iterations", type=int, default=20)
    parser.add_argument("--results", type=Path, default=Path("results/apoferritin"))
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("EMFLOW_TEST_DATA", "../shared/data"))
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    jobs = {
        f"junk {specimen} {snr:g} {seed}": lambda s=specimen, r=snr, n=seed: measure_junk(
            given.folder, s, r, n
        )
        for seed in given.seeds
        for snr in given.snrs
        for specimen in SPECIMENS
    } | {
        "noise": lambda: measure_noise(given.folder),
        "averages": lambda: measure_ours(given.folder),
        "relion": lambda: measure_relion(given.folder, given.relion_iterations),
        "real": lambda: measure_real(given.folder, given.results, given.data),
    }
    for name, job in jobs.items():
        if name.split()[0] in given.parts and name not in known:
            keep(name, job())


if __name__ == "__main__":
    main()

"""Memory and speed of heterogeneity's passes over particles that are streamed from disk.

    python benchmarks/heterogeneity_streaming.py FOLDER [--particles 1000 3000 10000] [--box 128] [--write]

Makes stacks of noise in FOLDER, 1 000 different images that come again and again (330 MB with the store of 10 000 of
128 px; remove it afterwards). Then, each in a process of its own:

memory  peak resident memory (VmHWM) of one pass of expectation and maximisation over N particles, mean map and three
        components at full band
pass    the same pass over 3 000 particles with the images' spectra in memory or read from the store, the page cache
        dropped beforehand; `disk_mb` is what the kernel read for it. In turn, three times each.

Prints one JSON line per measurement; --write keeps them in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from streaming import CPU, Held, disk_bytes, drop, make, measure

from emflow.em.basis import BasisGrid
from emflow.em.masks import soft_sphere
from emflow.heterogeneity.config import HeterogeneityFit
from emflow.heterogeneity.inputs import open_stack, read_posed
from emflow.heterogeneity.model import Model, em_pass, maximise

RESULTS = Path(__file__).parent / "results" / "heterogeneity_streaming.json"
COMPONENTS = 3
DIFFERENT = 1000
TIMED = 3000


def one_pass(folder: Path, count: int, source: str, box: int) -> dict[str, Any]:
    """Cost of one pass."""
    posed = read_posed(folder / f"particles{count}.star")
    path = folder / f"heterogeneity{count}.store"
    stack = open_stack(posed, HeterogeneityFit(components=COMPONENTS), path, CPU)
    if source == "memory":
        held = Held(stack.spectra.read(torch.arange(count), len(stack.plane)), stack.spectra.scale)
        stack = replace(stack, spectra=held)
    grid = BasisGrid.build(box, box / 2 - 1, device=CPU)
    random = torch.Generator().manual_seed(0)
    inner = soft_sphere(box, 0.3 * box, 4)
    volumes = torch.randn(COMPONENTS + 1, box, box, box, generator=random) * inner
    model = Model(volumes, 0.01, torch.ones(1, int(stack.plane.shell[-1]) + 1))
    table = grid.to_table(volumes)
    drop(path)
    before, wall, cpu = disk_bytes(), time.perf_counter(), time.process_time()
    sums = em_pass(stack, torch.arange(count), grid, table, model)
    spent = time.perf_counter() - wall, time.process_time() - cpu
    maximise(grid, table, sums, float(inner.square().sum()) / grid.padded**3)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return {
        "peak_mb": round(peak / 1024, 1),
        "wall_s": round(spent[0], 2),
        "cpu_s": round(spent[1], 2),
        "disk_mb": round((disk_bytes() - before) / 1e6, 1),
    }


def measure_pass(folder: Path, box: int, count: int, source: str) -> dict[str, Any]:
    """One pass in a process of its own."""
    return measure(str(folder), "--box", str(box), "--child", str(count), source, program=__file__)


def main() -> None:
    """All measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--particles", type=int, nargs="+", default=[1000, 3000, 10000])
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        torch.set_flush_denormal(True)
        count, source = int(given.child[0]), given.child[1]
        about = {"particles": count, "box_px": given.box, "components": COMPONENTS, "source": source}
        print(json.dumps(about | one_pass(given.folder, count, source, given.box)))
        return
    make(given.folder, given.box, sorted({*given.particles, TIMED}), DIFFERENT)
    lines = []
    for count in given.particles:
        lines.append({"measured": "memory"} | measure_pass(given.folder, given.box, count, "store"))
        if count != TIMED:
            (given.folder / f"heterogeneity{count}.store").unlink()
    for source in ("memory", "store") * 3:
        line = measure_pass(given.folder, given.box, TIMED, source)
        lines.append({"measured": "pass"} | line)
    if given.write:
        note = "noise; one thread; page cache dropped with posix_fadvise before each pass"
        command = "python benchmarks/heterogeneity_streaming.py FOLDER --write"
        RESULTS.write_text(json.dumps({"command": command, "note": note, "results": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()

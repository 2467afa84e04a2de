"""What a shard's step costs beside its work: started on few and on more real-sized micrographs, and a line put through."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from emflow.io.mrc import read_mrc, write_mrc
from scaling.cost import cost
from scaling.planning import command

FEW, MORE, SHARD = 2, 10, 100
PIXEL = 1.0
FACTS = ("--pixel-size-angstrom", str(PIXEL))
SIMULATE = """
sample: {{pixel_size_angstrom: {pixel}, diameter_angstrom: 180}}
execution: {{threads: 1}}
simulate: {{session: {{n_micrographs: 2, micrograph_size_px: 1024, particles_per_micrograph: 12, n_carbon_micrographs: 0}}}}
"""
STEPS: dict[str, tuple[str, ...]] = {
    "session.check": ("session", "check", "list.star", "check.star", *FACTS),
    "ctf.fit": ("ctf", "fit", "check.star", "ctf.star"),
    "denoise.apply": ("denoise", "apply", "check.star", "denoise.star"),
    "pick.apply": ("pick", "apply", "check.star", "pick.star", "--diameter-angstrom", "180"),
    "session.select": ("session", "select", "check.star", "ctf.star", "pick.star", "select.star"),
    "extract.run": ("extract", "run", "select.star", "ctf.star", "pick.star", "extract.star", "--diameter-angstrom", "180"),
    "extract.recenter": ("extract", "recenter", "extract.star", "ctf.star", "recenter.star", "--diameter-angstrom", "180"),
}  # fmt: skip
"""Steps with a job for each shard, in their order."""


def images(folder: Path) -> None:
    """Simulate two fields of 1024 pixels; make micrographs of 4096 of them: tiled, mirrored, rolled."""
    if len(list((folder / "images").glob("*.mrc"))) == MORE:
        return
    (folder / "run.yaml").write_text(SIMULATE.format(pixel=PIXEL))
    made = cost(command("emflow", "simulate", "session", "simulated", "--config", "run.yaml"), folder)
    assert made.code == 0, made.said[-3000:]
    (folder / "images").mkdir(exist_ok=True)
    fields = [read_mrc(path) for path in sorted((folder / "simulated" / "micrographs").glob("*.mrc"))]
    for number in range(MORE):
        tiled = np.tile(fields[number % len(fields)], (4, 4))[:: (-1) ** (number // 2)]
        pixels = np.ascontiguousarray(np.roll(tiled, 97 * number, axis=(0, 1)))
        write_mrc(folder / "images" / f"mic_{number + 1:03d}.mrc", pixels, PIXEL)


def overhead(folder: Path, per_job_s: float) -> dict[str, Any]:
    """Cost of each step by number of micrographs, and what of it would be overhead in a shard of 100.

    ``per_job_s`` is what Snakemake itself takes for a job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images(folder)
    spent: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    for count in (FEW, MORE):
        work = folder / f"of_{count}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        names = [str(path) for path in sorted((folder / "images").glob("*.mrc"))[:count]]
        (work / "list.txt").write_text("\n".join(names) + "\n")
        listed = cost(command("emflow", "session", "find", "list.txt", "lists", *FACTS), work)
        assert listed.code == 0, listed.said[-3000:]
        (work / "lists" / "shard_00001.star").rename(work / "list.star")
        (work / "lists").rmdir()
        for step, words in STEPS.items():
            took = cost(
                command("emflow", *words, "--threads", "1", "--device", "cpu", "--record", "record.json"),
                work,
            )
            assert took.code == 0, took.said[-3000:]
            spent.setdefault(step, []).append(took.cpu_s)
            peaks[step] = took.peak_mb
    found: dict[str, Any] = {}
    for step, (few, more) in spent.items():
        slope = (more - few) / (MORE - FEW)
        start = max(few - FEW * slope, 0.0)
        whole = start + per_job_s + SHARD * slope
        found[step] = {
            "cpu_s_of_2": few,
            "cpu_s_of_10": more,
            "start_s": round(start, 2),
            "work_of_100_s": round(SHARD * slope, 1),
            "overhead_percent": round(100 * (start + per_job_s) / whole, 1),
            "peak_memory_mb": peaks[step],
        }
    total = sum(row["work_of_100_s"] for row in found.values())
    starts = sum(row["start_s"] + per_job_s for row in found.values())
    found["all steps"] = {
        "work_of_100_s": round(total, 1),
        "overhead_percent": round(100 * starts / (starts + total), 1),
    }
    return found

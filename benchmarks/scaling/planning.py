"""What Snakemake's main process costs: planning in each state, new micrographs, a long run, many plans."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scaling.cost import cost, resident_mb
from scaling.project import Project, counts

PER_SHARD = ("session_check", "ctf_fit", "denoise_apply", "pick_apply", "session_select", "extract_run")
STATES = ("nothing", "half", "all")
STATS = """
import collections, os, sys
asked, stat = collections.Counter(), os.stat
def counted(path, *rest, **more):
    asked[str(path)] += 1
    return stat(path, *rest, **more)
os.stat = counted
from snakemake.cli import main
sys.argv = ["snakemake", *sys.argv[1:]]
try:
    main(sys.argv[1:])
except SystemExit:
    pass
images = [count for path, count in asked.items() if path.startswith("data/micrographs/")]
print("STAT", len(images), max(images), sum(asked.values()))
"""
REPEAT = """
import sys
from pathlib import Path
from emflow.project.plan import plan_run
def held():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024
for turn in range(int(sys.argv[1])):
    plan_run([Path("run.yaml")], {})
    print("HELD", turn, held())
"""
DRY = ("snakemake", "--profile", "profiles/local", "--configfile", "run.yaml", "--dry-run")


def command(*words: str) -> list[str]:
    """A command of this environment."""
    return [str(Path(sys.executable).parent / words[0]), *words[1:]]


def prepare(project: Project) -> None:
    """Run everything once with steps that only write small files; keep the states."""
    if (project.folder / "kept" / "all").exists():
        return
    subprocess.run(project.outputs_command(), cwd=project.folder, check=True)


def long_run(project: Project) -> dict[str, Any]:
    """A whole run whose steps cost nothing: what Snakemake's process takes for each job, and its memory."""
    prepare(project)
    project.restore("nothing")
    held: list[tuple[float, float]] = []

    def sample(pid: int) -> None:
        time.sleep(1.0)
        now = resident_mb(pid)
        if now is not None:
            held.append((time.monotonic(), now))

    took = cost(project.snakemake("--quiet", "rules", "progress"), project.folder, watch=sample)
    assert took.code == 0, took.said[-3000:]
    project.keep("all")
    jobs = sum(1 for _ in (project.results / "records").rglob("*.json"))
    empty = cost(command(*DRY, "--quiet", "rules", "progress"), project.folder)
    quarter = max(len(held) // 4, 1)
    return {
        "jobs": jobs,
        "cpu_s": took.cpu_s,
        "cpu_s_per_job": round((took.cpu_s - empty.cpu_s) / jobs, 4),
        "memory_mb_after_quarters": [round(held[min(k * quarter, len(held) - 1)][1], 1) for k in range(1, 5)],
        "peak_memory_mb": took.peak_mb,
    }


def plans(project: Project, shards: int) -> dict[str, Any]:
    """Dry run, plan and start of a real run up to its first job, with nothing, half and all made."""
    found: dict[str, Any] = {}
    for state in STATES:
        project.restore("all" if state == "half" else state)
        if state == "half":
            project.undo(shards // 2)
        dry = cost(command(*DRY), project.folder)
        assert dry.code == 0, dry.said[-3000:]
        words = cost(command("emflow", "plan", "run.yaml"), project.folder)
        assert words.code == 0, words.said[-3000:]
        start = cost(project.snakemake(), project.folder, {"EMFLOW_SCALE_STOP": "1"})  # the first job fails
        found[state] = {
            "jobs_to_run": sum(counts(dry.said).values()),
            "dry_run": {"cpu_s": dry.cpu_s, "peak_memory_mb": dry.peak_mb},
            "emflow_plan": {"cpu_s": words.cpu_s, "peak_memory_mb": words.peak_mb},
            "start_to_first_job": {"cpu_s": start.cpu_s, "peak_memory_mb": start.peak_mb},
        }
    return found


def grow(project: Project, shards: int, new: int) -> dict[str, Any]:
    """Plan with new micrographs on a finished project: which shards are touched, how often files are asked for."""
    project.restore("all")
    lists = {path: path.stat().st_mtime_ns for path in (project.results / "session").glob("shard_*.star")}
    added = -(-new // 100)
    project.add(new)
    try:
        dry = cost(command(*DRY), project.folder)
        assert dry.code == 0, dry.said[-3000:]
        asked = cost([sys.executable, "-c", STATS, *DRY[1:], "--quiet", "rules", "progress"], project.folder)
        images, most, everything = map(int, asked.said.split("STAT")[-1].split())
    finally:
        for path in sorted(project.images.iterdir())[-new:]:
            path.unlink()
    jobs = counts(dry.said)
    assert {rule: jobs[rule] for rule in PER_SHARD} == dict.fromkeys(PER_SHARD, added), jobs
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in lists.items()), "a list was rewritten"
    return {
        "new_micrographs": new,
        "dry_run": {"cpu_s": dry.cpu_s, "peak_memory_mb": dry.peak_mb},
        "jobs": jobs,
        "shards_before": shards,
        "stat_calls": {"micrographs": images, "most_for_one": most, "all_files": everything},
    }


def repeated(project: Project, turns: int) -> dict[str, Any]:
    """Memory of a process that plans again and again, and of one that starts a process for each plan."""
    project.restore("nothing")
    inside = cost([sys.executable, "-c", REPEAT, str(turns)], project.folder)
    assert inside.code == 0, inside.said[-3000:]
    held = [float(line.split()[2]) for line in inside.said.splitlines() if line.startswith("HELD")]
    own = []
    for _ in range(
        turns // 10
    ):  # the process that starts them has nothing that could grow; they all begin anew
        took = cost(command("emflow", "plan", "run.yaml"), project.folder)
        assert took.code == 0, took.said[-3000:]
        own.append((took.peak_mb, resident_mb(os.getpid())))
    return {
        "turns": turns,
        "one_process_mb": {"first": held[0], "last": held[-1]},
        "process_per_plan_mb": {"first": own[0][0], "last": own[-1][0]},
        "process_that_starts_them_mb": {"first": own[0][1], "last": own[-1][1]},
    }

"""What the jobs of a plan would cost: CPU and GPU time, wall time with what there is, room on the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emflow.project.costs import Cost, Costs, total
from emflow.project.schedule import Slots, Task, critical_path, makespan
from emflow.project.volume import volume_workload
from emflow.project.workload import SHOWN, Workload, shard_of, workload


@dataclass
class StepCost:
    """Cost of the jobs of one rule that would run."""

    rule: str
    costs: list[Cost] = field(default_factory=list)
    kept_bytes: float = 0.0
    passing_bytes: float = 0.0
    """Most that one job takes only while it runs."""


@dataclass
class Estimate:
    """Cost of a plan; ranges hold where all steps err to the same side."""

    work: Workload
    steps: list[StepCost]
    slots: Slots
    wall_s: float
    longest_s: float
    """Of the longest chain of jobs, each of which needs the one before."""
    longest: list[str]
    """Rules of that chain."""
    free_bytes: float
    temporary_bytes: float
    """Denoised images that lie there at once, and are removed after picking."""

    @property
    def costs(self) -> list[Cost]:
        """Of all jobs."""
        return [cost for step in self.steps for cost in step.costs]

    @property
    def kept_bytes(self) -> float:
        """Bytes of all results that would be made."""
        return sum(step.kept_bytes for step in self.steps)

    @property
    def needed_bytes(self) -> float:
        """Bytes on the disk of the results when most lies there."""
        return (
            self.kept_bytes + self.temporary_bytes + max((s.passing_bytes for s in self.steps), default=0.0)
        )


def estimate(workflow: Any, slots: Slots | None = None) -> Estimate:
    """Estimate the cost of the jobs that a Snakemake workflow would run; its graph of jobs must be there.

    Parameters
    ----------
    workflow
        Snakemake's workflow; the Snakefile named its :class:`~emflow.project.chain.Chain` ``project``.
    slots
        What there is to run on; by default this machine.
    """
    project, dag = workflow.globals["project"], workflow.dag
    slots = slots or this_machine()
    if project.volume:
        work = volume_workload(project.settings, project.volume, project.parts)
    else:
        work = workload(project.settings, dict(project.shards))
    costs = Costs(project.settings, work, slots.gpus or 0)
    execution = project.settings.execution
    scratch, keep = execution.scratch, project.keeps_denoised
    steps: dict[str, StepCost] = {}
    tasks: list[Task] = []
    places: dict[Any, int] = {}
    asked: dict[str, tuple[int, bool]] = {}
    waiting = set(dag.needrun_jobs())
    most_denoised = 0.0
    for level in dag.toposorted():
        for job in level:
            if job not in waiting or not job.log:
                continue
            record = Path(str(job.log[0]))
            step, shard = record.parent.name, shard_of(record.name)
            rule = job.rule.name
            if rule not in asked:
                asked[rule] = job.threads, bool(job.resources.get("gpu", 0))
            threads, gpu = asked[rule]
            cost = costs.of(step, record.stem, shard, min(threads, slots.cores or threads), gpu)
            entry = steps.setdefault(rule, StepCost(rule))
            entry.costs.append(cost)
            kept = costs.kept_bytes(step, shard)
            if step == "denoise.apply" and shard not in (None, SHOWN) and not keep:
                most_denoised, kept = max(most_denoised, kept), 0.0
            entry.kept_bytes += kept
            if not scratch:
                entry.passing_bytes = max(entry.passing_bytes, costs.passing_bytes(step, shard))
            needs = tuple(places[other] for other in dag.dependencies[job] if other in places)
            places[job] = len(tasks)
            tasks.append(Task(rule, cost.wall_s, threads, int(gpu and (slots.gpus or 0) > 0), needs))
    longest, names = critical_path(tasks)
    at_once = (slots.jobs or max(1, (slots.cores or 1) // 4)) + 1
    shards = len(steps["denoise_apply"].costs) if "denoise_apply" in steps else 0
    return Estimate(
        work, list(steps.values()), slots, makespan(tasks, slots), longest, list(dict.fromkeys(names)),
        _free(Path(project.folder)), most_denoised * min(at_once, shards),
    )  # fmt: skip


def this_machine() -> Slots:
    """Cores of this process, and the GPUs that the system shows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Slots(cores or 1, None, len(list(Path("/dev").glob("nvidia[0-9]*"))))


def _free(folder: Path) -> float:
    """Bytes free where a folder is, or would be."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return float(shutil.disk_usage(place).free)


def in_figures(found: Estimate) -> str:
    """Return the estimate as text: a line for each step, then the totals with their ranges."""
    if not found.costs:
        return ""
    width = max(len(step.rule) for step in found.steps)
    lines = [f"  {'':{width}}  {'CPU':>8}  {'GPU':>8}  {'disk':>8}   figures"]
    for step in found.steps:
        cpu, gpu = total(step.costs, "cpu_s")[0], total(step.costs, "gpu_s")[0]
        lines.append(
            f"  {step.rule.replace('_', ' '):{width}}  {span(cpu):>8}  {span(gpu) if gpu else '':>8}  "
            f"{size(step.kept_bytes):>8}   {_source(step.costs)}"
        )
    (cpu, *cpu_range), (gpu, *gpu_range) = (total(found.costs, what) for what in ("cpu_s", "gpu_s"))
    low, high = (found.wall_s * bound / max(cpu, 1e-9) for bound in cpu_range)
    lines += [
        "",
        f"CPU   {span(cpu)} (from {span(cpu_range[0])} to {span(cpu_range[1])})",
        f"GPU   {span(gpu)} (from {span(gpu_range[0])} to {span(gpu_range[1])})" if gpu else "GPU   none",
        f"wall  {span(found.wall_s)} (from {span(low)} to {span(high)}) with {_with(found.slots)}, without waiting "
        f"in a queue",
        f"      at least {span(found.longest_s)} on any machine: {_chain(found.longest)}",
        f"disk  {size(found.kept_bytes)} of results"
        + (f", {size(found.needed_bytes)} while it runs" if found.needed_bytes > found.kept_bytes else "")
        + f"; {size(found.free_bytes)} are free",
    ]
    if not found.work.counted:
        lines.append(
            f"      Nothing has been picked yet: {found.work.particles_per_micrograph:.0f} particles a micrograph are "
            "a guess, good to a factor of 3 either way. Plan again when a shard has been picked."
        )
    if not found.work.sized:
        lines.append(
            f"      None of the first micrographs could be read: {found.work.megapixels:.0f} megapixels each are a guess."
        )
    lines += [f"      {line}" for line in shortage(found)]
    return "\n".join(lines)


def shortage(found: Estimate) -> list[str]:
    """What to do where the results do not fit on the disk; nothing where they do."""
    if found.needed_bytes <= found.free_bytes:
        return []
    advice = [
        f"This does not fit: {size(found.needed_bytes)} needed, {size(found.free_bytes)} free. Free space "
        "(`emflow clean PROJECT` lists what can be made again), or run where there is more.",
    ]
    if max((step.passing_bytes for step in found.steps), default=0.0) > 0.1 * found.needed_bytes:
        advice.append("execution.scratch: a folder on another disk takes the particle stores.")
    large = [
        s for s in found.steps if s.rule.startswith("extract") and s.kept_bytes > 0.3 * found.needed_bytes
    ]
    if large:
        advice.append(
            "Most are particle images: extract.recenter.resolution_angstrom or max_size_px makes them smaller."
        )
    return advice


def _source(costs: Iterable[Cost]) -> str:
    """Where figures of a step come from, and how far they may be off."""
    by_source: dict[str, float] = {}
    for cost in costs:
        by_source[cost.source] = max(by_source.get(cost.source, 0.0), cost.factor)
    words = {"own": "own records", "shipped": "shipped figures", "guess": "a guess"}
    return ", ".join(f"{words[source]}, ×÷{factor:.1f}" for source, factor in by_source.items())


def _with(slots: Slots) -> str:
    words = [f"{slots.jobs} jobs at once"] if slots.jobs else []
    words += [f"{slots.cores} cores"] if slots.cores else []
    words += [f"{slots.gpus} GPU{'s' if slots.gpus > 1 else ''}"] if slots.gpus else ["no GPU"]
    return ", ".join(words)


def _chain(names: list[str]) -> str:
    words = [name.replace("_", " ") for name in names]
    return " → ".join(words if len(words) < 6 else [*words[:2], "…", *words[-3:]])


def span(seconds: float) -> str:
    """A time as people say it."""
    for unit, name in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= (2 * unit if name == "days" else unit):
            return f"{seconds / unit:.{0 if seconds >= 10 * unit else 1}f} {name}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.{0 if count >= 10 * unit else 1}f} {name}"
    return f"{count / 1e3:.0f} kB"

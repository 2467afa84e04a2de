"""What jobs would cost: from the project's own records where the step ran before, else from shipped figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emflow.config import Settings
from emflow.project.rates import (
    GPU_FACTOR,
    GPU_SPEED,
    KEPT,
    OTHER,
    PASSING,
    RATES,
    START_WALL_S,
    Load,
    Rate,
)
from emflow.project.workload import GUESS_FACTOR, SHOWN, Workload, load_then, read_record

_SAMPLED = 12
"""Records of a step that are read, at most: those of shards are alike."""
_OWN_FACTOR = 1.3
"""Runs of the same work on the same machine differed by this much."""
_THREADS_POWER = 0.75
"""Speed grows with this power of the threads."""


@dataclass(frozen=True)
class Cost:
    """Of one job. ``factor`` is the range: from the figure divided by it to the figure times it."""

    cpu_s: float
    gpu_s: float
    wall_s: float
    factor: float
    source: str
    """own (records of this project), shipped, or guess (no figure was ever measured)."""


@dataclass(frozen=True)
class _Known:
    """What the records of a step say."""

    fixed_s: float
    unit_s: float
    speed: float
    """CPU seconds of work in a second of wall time."""
    threads: int
    units: float
    """Of a job, on average."""
    on_gpu: bool


class Costs:
    """Reckon jobs of one project; each step's records are read once.

    Parameters
    ----------
    settings
        Settings of the run.
    work
        The project's units.
    gpus
        GPUs that jobs may use; with 0, GPU steps are reckoned on the CPU.
    """

    def __init__(self, settings: Settings, work: Workload, gpus: int = 0) -> None:
        self._settings, self._work, self._gpus = settings, work, gpus
        self._folder = Path("results") / settings.project
        self._known: dict[tuple[str, str], _Known | None] = {}

    def of(self, step: str, record: str, shard: str | None, threads: int, gpu: bool) -> Cost:
        """Cost of a job.

        Parameters
        ----------
        step, record
            Room and verb, and the name of the record that the job would write (``shard_00001``, ``all``).
        shard
            Number of its shard; None for a pooled job.
        """
        settings, load = self._values(step), self._work.of(step, shard)
        rate = RATES.get(step, OTHER)
        units = rate.count(load, settings)
        known = self._history(step, record, rate)
        gpu = gpu and self._gpus > 0
        if known is not None and known.on_gpu == gpu:
            work, fixed, source = known.unit_s * units, known.fixed_s, "own"
            far = max(units, known.units) / max(min(units, known.units), 1e-9)
            factor = min(_OWN_FACTOR * far**0.15, max(rate.factor, 4.0))
            speed = known.speed if gpu else known.speed * (threads / known.threads) ** _THREADS_POWER
        else:
            work, fixed, factor = rate.unit_s * units, rate.fixed_s, rate.factor
            source = "shipped" if step in RATES and not gpu else "guess"
            speed = threads**_THREADS_POWER
            if gpu:
                work, speed, factor = work / GPU_SPEED, 1.0, max(factor, GPU_FACTOR)
        if not self._work.counted and units != rate.count(_few(load), settings):
            factor *= GUESS_FACTOR
        wall = START_WALL_S + work / max(speed, 0.05)
        return Cost(fixed + work, wall if gpu else 0.0, wall, factor, source)

    def kept_bytes(self, step: str, shard: str | None) -> float:
        """Bytes of results that a job leaves."""
        count = KEPT.get(step)
        return count(self._work.of(step, shard), self._values(step)) if count else 1e5

    def passing_bytes(self, step: str, shard: str | None) -> float:
        """Bytes that a job takes only while it runs."""
        count = PASSING.get(step)
        return count(self._work.of(step, shard), self._values(step)) if count else 0.0

    def _values(self, step: str) -> dict[str, Any]:
        return dict(self._settings.section(step)) if step in self._settings.steps else {}

    def _history(self, step: str, record: str, rate: Rate) -> _Known | None:
        kind = re.sub(r"\d+", "", record)
        if (step, kind) not in self._known:
            self._known[step, kind] = self._read(step, kind, rate)
        return self._known[step, kind]

    def _read(self, step: str, kind: str, rate: Rate) -> _Known | None:
        cpu = wall = units = jobs = 0.0
        fixed, threads, on_gpu = rate.fixed_s, 1, False
        for content in _sampled(self._folder / "records" / step, kind):
            then = self._then(step, content, pooled="_" not in kind and kind != SHOWN)
            spent = content.get("cpu_s")
            if then is None or not isinstance(spent, int | float):
                continue
            jobs += 1
            cpu, wall = cpu + spent, wall + float(content.get("wall_s", spent))
            units += rate.count(then, content.get("settings") or {})
            fixed, threads = min(fixed, spent), max(1, int(content.get("threads") or 1))
            on_gpu |= "(" in str(content.get("device", ""))  # the GPU's name stands behind what was asked for
        if not jobs:
            return None
        work = max(cpu - jobs * fixed, 0.0)
        speed = min(max(work / wall if wall else 1.0, 0.05), float(threads))
        if on_gpu:
            work, speed = max(wall, work), 1.0
        return _Known(fixed, work / max(units, 1e-9), speed, threads, units / jobs, on_gpu)

    def _then(self, step: str, content: dict[str, Any], pooled: bool) -> Load | None:
        """Load of the job that wrote a record."""
        work = self._work
        if pooled:
            return load_then(self._folder, step, work.megapixels, work.cut_px) or work.of(step)
        per = work.particles_per_micrograph
        micrographs = content.get("micrographs", content.get("parts"))
        particles = content.get("particles", content.get("picks"))
        if micrographs is None:
            micrographs = float(particles) / per if particles is not None and per else None
        if micrographs is None:
            return None
        if particles is None:
            particles = micrographs * per
        box = float(content.get("box_px") or work.of(step).box_px)
        return Load(float(micrographs), work.megapixels, float(particles), work.cut_px, box)


def _few(load: Load) -> Load:
    """Return the same load with half the particles, to see whether a count depends on them."""
    return Load(load.micrographs, load.megapixels, load.particles / 2, load.cut_px, load.box_px)


def _sampled(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Records of one kind (``shard_``, ``all``), evenly spread."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return
    names = [name for name in names if re.sub(r"\d+", "", name.removesuffix(".json")) == kind]
    step = max(1, -(-len(names) // _SAMPLED))
    for name in names[::step]:
        yield read_record(folder / name)


def total(costs: Iterable[Cost], what: str) -> tuple[float, float, float]:
    """Sum of a figure (``cpu_s``, ``gpu_s``): itself, and its range where all err to one side."""
    values = [(getattr(cost, what), cost.factor) for cost in costs]
    return (
        sum(value for value, _ in values),
        sum(value / factor for value, factor in values),
        sum(value * factor for value, factor in values),
    )

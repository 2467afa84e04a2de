"""What a step costs, and the room it takes, per unit of its work: for projects that have no records of their own.

Measured with one thread on the examples config/tiny.yaml, config/demo.yaml and config/apoferritin.yaml (records of
2-core machines without GPU, 0.5 to 1.5 megapixels a micrograph, 120 to 1700 particles in boxes of 64 to 140 px). The
unit is the step's count of operations, so that a larger box or micrograph scales; ``factor`` is how far one of those
runs lay from the figure, widened where real sessions are much larger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

START_WALL_S = 3.0
"""From Snakemake's start of a job to its first work: process, libraries. Median of the tiny run."""
GPU_SPEED = 40.0
"""CPU seconds that a GPU does in one second. A guess: nothing of emflow has been timed on a GPU for this table."""
GPU_FACTOR = 5.0


@dataclass(frozen=True)
class Load:
    """The work of one job, or of a step."""

    micrographs: float
    """Or parts of a volume."""
    megapixels: float
    """Of one micrograph; of a part of a volume, its million restored voxels."""
    particles: float
    cut_px: float
    """Side of the window that is cut out of the micrograph."""
    box_px: float
    """Side of the images that the step reads or writes."""

    @property
    def area(self) -> float:
        """Megapixels of all micrographs."""
        return self.micrographs * self.megapixels

    @property
    def pixels(self) -> float:
        """Pixels of all particle images, in millions."""
        return self.particles * self.box_px**2 / 1e6

    @property
    def voxels(self) -> float:
        """Voxels of a map, in millions."""
        return self.box_px**3 / 1e6


Settings = Mapping[str, Any]
Count = Callable[[Load, Settings], float]


@dataclass(frozen=True)
class Rate:
    """Cost of a step: ``fixed_s`` of each job and ``unit_s`` of each unit, in CPU seconds."""

    fixed_s: float
    unit_s: float
    count: Count
    """Units of a load under some settings."""
    factor: float = 3.0
    """The truth lies between the figure divided and multiplied by this."""


def _area(load: Load, settings: Settings) -> float:
    return load.area


def _rows(load: Load, settings: Settings) -> float:
    return load.particles


def _micrographs(load: Load, settings: Settings) -> float:
    return load.micrographs


def _pixels(load: Load, settings: Settings) -> float:
    return load.pixels


def _voxels(load: Load, settings: Settings) -> float:
    return load.voxels


def _cut(load: Load, settings: Settings) -> float:
    """Windows are cut and transformed; each micrograph is read."""
    return load.particles * load.cut_px**2 / 1e6 + 0.5 * load.area


def _starts(load: Load, settings: Settings) -> float:
    """Images compared by ab initio: many starts on few particles, some passes over those that shape the map."""
    drawn = settings.get("n_starts", 12) * settings.get("n_iterations", 20) * settings.get("n_drawn", 150)
    shaping = min(load.particles, 2 * settings.get("max_particles", 4000))
    return float(min(drawn * 2, 2000 * load.particles) + 10 * shaping + 2 * load.particles) / 1e3


def _passes(load: Load, settings: Settings) -> float:
    passes = sum(settings.get("iterations", (12, 6, 6, 4)))
    return load.pixels * passes / 28 * (1 + settings.get("components", 8)) / 9


def _classes(load: Load, settings: Settings) -> float:
    return load.pixels * max(1, settings.get("n_classes", 1)) * settings.get("n_starts", 2)


def _crops(load: Load, settings: Settings) -> float:
    """Million pixels learned from; twice, where slices are hidden to score it."""
    pixels = settings.get("steps", 500) * settings.get("batch", 12) * settings.get("crop_px", 96) ** 2
    return float(pixels) / 1e6 * (2 if settings.get("held_out", True) else 1)


def _denoised(load: Load, settings: Settings) -> float:
    """Area, for each evaluation of the network if it samples."""
    if settings.get("method") != "diffusion":
        return load.area
    return load.area * (2 + settings.get("samples", 8) * settings.get("evaluations", 4))


RATES: dict[str, Rate] = {
    "session.check": Rate(0.7, 0.15, _area, 2.0),
    "session.select": Rate(0.5, 2e-3, _micrographs, 2.0),
    "session.join": Rate(0.5, 2e-3, _micrographs, 3.0),
    "ctf.fit": Rate(1.6, 0.2, _area, 2.5),
    "ctf.import": Rate(1.0, 5e-3, _micrographs),
    "denoise.apply": Rate(1.6, 0.2, _denoised, 2.5),
    "pick.apply": Rate(1.5, 1.5, _area, 4.0),
    "pick.assess": Rate(2.0, 0.3, _area, 4.0),
    "pick.import": Rate(1.0, 5e-3, _micrographs),
    "extract.run": Rate(1.4, 0.03, _cut, 2.5),
    "extract.recenter": Rate(1.4, 0.04, _cut, 2.5),
    "extract.join": Rate(1.3, 5e-5, _rows, 3.0),
    "classify.run": Rate(2.0, 5.0, _pixels, 3.0),
    "classify.select": Rate(1.5, 1e-4, _rows),
    "reconstruct.abinitio": Rate(2.0, 0.5, _starts, 4.0),
    "reconstruct.refine": Rate(2.0, 8.8, _pixels, 3.0),
    "reconstruct.ctf": Rate(2.0, 2.0, _pixels, 4.0),
    "reconstruct.sharpen": Rate(2.2, 2.0, _voxels, 4.0),
    "reconstruct.classes": Rate(2.0, 6.0, _classes, 5.0),
    "heterogeneity.fit": Rate(2.2, 4.0, _passes, 3.0),
    "heterogeneity.analyze": Rate(2.5, 1.1, _pixels, 3.0),
    "heterogeneity.traverse": Rate(3.0, 0.3, _pixels, 5.0),
    "heterogeneity.check": Rate(3.0, 1.5, _pixels, 5.0),
    "validate.maps": Rate(2.4, 5.0, _voxels, 2.5),
    "validate.local": Rate(2.2, 1.3, _voxels, 2.5),
    "validate.particles": Rate(2.1, 4.1, _pixels, 3.0),
    "validate.states": Rate(2.3, 2.0, _voxels, 4.0),
    "validate.noise_control": Rate(2.0, 0.1, _pixels, 4.0),
    "validate.noise_compare": Rate(2.3, 3.0, _voxels, 4.0),
    "simulate.score": Rate(12.0, 2.4, _pixels, 2.5),
    "report": Rate(3.5, 2e-5, _rows, 2.5),
    "vem.train": Rate(5.0, 1.0, _crops, 3.0),
    "vem.restore": Rate(3.0, 0.7, _area, 2.5),
}
"""Step → its rate; a step that is not here is reckoned as :data:`OTHER`, and named as unknown."""
OTHER = Rate(2.0, 1.0, _pixels, 10.0)

COARSE = ("extract.run", "extract.join", "classify.run", "classify.select", "reconstruct.abinitio")
"""Steps on the binned images; later ones are on the fine ones."""

Bytes = Callable[[Load, Settings], float]
_ROW = 250.0
"""Bytes of a particle in a table that extraction writes; later tables have more columns."""


def _store(load: Load, settings: Settings) -> float:
    return 1.6 * load.particles * load.box_px**2


KEPT: dict[str, Bytes] = {
    "session.check": lambda load, s: 600 * load.micrographs,
    "session.select": lambda load, s: 400 * load.micrographs,
    "session.join": lambda load, s: 1000 * load.micrographs,
    "ctf.fit": lambda load, s: 6000 * load.micrographs,
    "denoise.apply": lambda load, s: 4e6 * load.area * (3 if s.get("method") == "diffusion" else 1),
    "pick.apply": lambda load, s: 150 * load.particles + 20e3 * load.micrographs,
    "extract.run": lambda load, s: load.particles * (4 * load.box_px**2 + _ROW),
    "extract.recenter": lambda load, s: load.particles * (4 * load.box_px**2 + _ROW),
    "extract.join": lambda load, s: _ROW * load.particles,
    "classify.run": lambda load, s: 400 * load.particles,
    "classify.select": lambda load, s: 400 * load.particles,
    "reconstruct.abinitio": lambda load, s: 300 * load.particles + 24 * load.box_px**3,
    "reconstruct.refine": lambda load, s: 300 * load.particles + 24 * load.box_px**3,
    "reconstruct.ctf": lambda load, s: 400 * load.particles,
    "reconstruct.sharpen": lambda load, s: 12 * load.box_px**3,
    "reconstruct.classes": lambda load, s: 500 * load.particles + 8 * load.box_px**3 * s.get("n_classes", 1),
    "heterogeneity.fit": lambda load, s: 400 * load.particles + 12 * load.box_px**3 * s.get("components", 8),
    "heterogeneity.analyze": lambda load, s: (
        600 * load.particles + 4 * load.box_px**3 * (s.get("volumes", 7) * s.get("coordinates", 3) + 20)
    ),
    "validate.maps": lambda load, s: 10 * load.box_px**3 + 1e6,
    "validate.local": lambda load, s: 8 * load.box_px**3,
    "validate.particles": lambda load, s: 400 * load.particles,
    "validate.noise_control": lambda load, s: load.particles * (4 * load.box_px**2 + _ROW),
    "report": lambda load, s: 10e6,
    "vem.restore": lambda load, s: 2e6 * load.area,
}
"""Bytes of results that a step leaves."""
PASSING: dict[str, Bytes] = {"reconstruct.refine": _store, "heterogeneity.fit": _store}
"""Bytes that a step takes while it runs: the particle store; on ``execution.scratch`` where that is set."""

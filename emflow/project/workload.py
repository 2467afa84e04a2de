"""How large a project's work is: micrographs of each shard, their size, particles and boxes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emflow.config import Settings
from emflow.project.rates import COARSE, Load
from emflow.step import EmflowError

GUESSED_PER_MICROGRAPH = 150.0
GUESSED_MEGAPIXELS = 16.0
_TRIED = 5
"""Micrographs whose headers are tried for their size."""
SHOWN, _SHOWN_MICROGRAPHS = "shown", 6
"""The micrographs that are denoised for the report: a shard of its own."""
GUESS_FACTOR = 3.0
"""How far a guessed number of particles may be off."""


@dataclass(frozen=True)
class Workload:
    """What the units of all steps are counted from."""

    shards: dict[str, int]
    """Number of each shard → its micrographs; of each part of a volume → 1."""
    megapixels: float
    """Of a micrograph; of a part of a volume, its million restored voxels."""
    particles_per_micrograph: float
    counted: bool
    """Whether particles were counted in this project; else they are a guess."""
    cut_px: float
    coarse_px: float
    fine_px: float
    sized: bool = True
    """Whether a micrograph's size was read; else it is a guess."""

    @property
    def micrographs(self) -> int:
        """Of all shards."""
        return sum(self.shards.values())

    def of(self, step: str, shard: str | None = None) -> Load:
        """Load of a step: of one shard, or of all."""
        if shard == SHOWN:
            micrographs = min(_SHOWN_MICROGRAPHS, self.micrographs)
        else:
            micrographs = self.micrographs if shard is None else self.shards.get(shard, 0)
        particles = micrographs * self.particles_per_micrograph
        box = self.coarse_px if step in COARSE else self.fine_px
        return Load(micrographs, self.megapixels, particles, self.cut_px, box)


def workload(settings: Settings, lists: dict[str, str]) -> Workload:
    """Count the work of a project from its lists and settings, and from what is there already.

    Parameters
    ----------
    lists
        Number of each shard → path of its list. A few are read, and one micrograph's header.
    """
    folder = Path("results") / settings.project
    numbers = sorted(lists)
    counts: dict[str, int] = {}
    first: list[str] = []
    # full shards are equal: the first, the last and a few are enough
    read = set(numbers[:3] + numbers[-3:])
    for number in numbers:
        if number in read:
            names = _names(Path(lists[number]))
            first = first or names[:_TRIED]
            counts[number] = len(names)
    full = max(counts.values(), default=0)
    per, counted = _particles(folder)
    shards = {number: counts.get(number, full) for number in numbers}
    size = _megapixels(first)
    return Workload(
        shards, size or GUESSED_MEGAPIXELS, per, counted, *_boxes(settings), sized=size is not None
    )


def load_then(folder: Path, step: str, megapixels: float, cut_px: float) -> Load | None:
    """Load that a pooled step had when it ran last, from the figures that its inputs left; None where there are none."""
    place = "extract" if step in COARSE else "extract/recentered"
    found, session = _figures(folder / place), _figures(folder / "session")
    if not found.get("particles") or not found.get("box_px"):
        return None
    micrographs = float(session.get("micrographs") or 0)
    return Load(micrographs, megapixels, float(found["particles"]), cut_px, float(found["box_px"]))


def _figures(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _names(path: Path) -> list[str]:
    """First column of a list's micrographs, without a parser: lists are read at each plan."""
    text = path.read_text(encoding="utf-8", errors="replace").partition("data_micrographs")[2]
    rows = (line for line in text.splitlines() if line.strip() and not line.startswith(("_", "loop_", "#")))
    return [row.split()[0] for row in rows]


def _megapixels(names: list[str]) -> float | None:
    """Size of the first micrograph that can be read."""
    from emflow.io.image import image_shape

    for name in names:
        try:
            height, width = image_shape(name)
        except (EmflowError, OSError):
            continue
        return height * width / 1e6
    return None


def _particles(folder: Path) -> tuple[float, bool]:
    """Particles per micrograph: those extracted, else those picked in shards so far, else a guess."""
    extracted, session = _figures(folder / "extract"), _figures(folder / "session")
    if extracted.get("particles") is not None and session.get("micrographs"):
        return float(extracted["particles"]) / float(session["micrographs"]), True
    picks = micrographs = 0
    for path in sorted((folder / "records" / "pick.apply").glob("shard_*.json"))[:10]:
        content = read_record(path)
        picks, micrographs = (
            picks + content.get("picks", 0),
            micrographs + content.get("micrographs", 0),
        )
    return (picks / micrographs, True) if micrographs else (GUESSED_PER_MICROGRAPH, False)


def read_record(path: Path) -> dict[str, Any]:
    """Read a step's record; empty where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _boxes(settings: Settings) -> tuple[float, float, float]:
    """Side of the window, of the binned and of the fine images; to a few per cent, since FFTs round them up."""
    pixel, diameter = settings.sample.pixel_size_angstrom, settings.sample.diameter_angstrom
    run, fine = (settings.section(f"extract.{verb}").model_dump() for verb in ("run", "recenter"))
    across = (diameter or 200.0) / (pixel or 1.0)
    cut, window = (cfg["box_size_px"] or cfg["box_diameters"] * across for cfg in (run, fine))
    coarse = min(cut, run["binned_size_px"] or cut)
    side = min(window, fine["max_size_px"])
    if fine["resolution_angstrom"]:
        side = min(side, 2 * window * (pixel or 1.0) / fine["resolution_angstrom"])
    return float(cut), float(coarse), float(side)


def shard_of(path: str) -> str | None:
    """Number of the shard that a record belongs to; None for pooled ones."""
    if path.startswith(SHOWN):
        return SHOWN
    found = re.search(r"_(\d{5,})\.\w+$", path)
    return found[1] if found else None

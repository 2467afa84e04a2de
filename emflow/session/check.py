"""Look at the pixels of micrographs: which are sound, which are not, and why."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emflow.session.config import SessionCheck


@dataclass(frozen=True)
class Fault:
    """Why a micrograph is set aside, and what was expected."""

    reason: str
    expected: str


@dataclass(frozen=True)
class Pixels:
    """What was measured in a micrograph with sound pixels."""

    shape: tuple[int, int]
    mean: float
    std: float
    digest: str
    """Digest of the pixels: equal for copies, whatever their name or format."""


@dataclass(frozen=True)
class Peer:
    """What a micrograph is compared with the others of its shard by."""

    name: str
    group: str
    """Optics group."""
    mtime_ns: int
    settled: bool
    """Whether it was accepted before: then newer files cannot overturn it."""
    shape: tuple[int, int]
    digest: str
    header_pixel_angstrom: float | None


def compare(peers: Mapping[int, Peer], cfg: SessionCheck) -> dict[int, Fault]:
    """Find odd shapes, odd header pixel sizes and copies among the sound micrographs of a shard, by row."""
    rows = sorted(peers)
    groups = [peers[row].group for row in rows]
    settled = [peers[row].settled for row in rows]
    faults = odd_shapes([peers[row].shape for row in rows], groups, settled)
    told = [None if i in faults else peers[row].header_pixel_angstrom for i, row in enumerate(rows)]
    faults |= odd_headers(told, groups, cfg)
    digests = [None if i in faults else peers[row].digest for i, row in enumerate(rows)]
    copies = duplicates(digests, [peers[row].mtime_ns for row in rows], settled)
    for i, original in copies.items():
        faults[i] = Fault(f"a copy of {peers[rows[original]].name}", "each micrograph once")
    return {rows[i]: fault for i, fault in faults.items()}


def measure(image: np.ndarray, cfg: SessionCheck) -> Pixels | Fault:
    """Measure a micrograph (y, x), float32, or tell what is wrong with it."""
    row_max, row_min = image.max(axis=1), image.min(axis=1)  # NaN and infinity pass through
    if not (np.isfinite(row_max).all() and np.isfinite(row_min).all()):
        bad = int((~np.isfinite(image)).sum())
        which = "all pixels are" if bad == image.size else f"{bad} of {image.size} pixels are"
        return Fault(f"{which} NaN or infinite", "finite pixels")
    if row_max.max() == row_min.min():
        return Fault(f"constant: every pixel is {float(row_max[0]):g}", "pixels that vary")
    blank = max(float((row_max == row_min).mean()), float((image.max(axis=0) == image.min(axis=0)).mean()))
    if blank > cfg.max_blank_fraction:
        return Fault(
            f"{blank:.0%} of its rows or columns hold one single value: cut short while it was copied?",
            f"at most {cfg.max_blank_fraction:.0%} (session.check.max_blank_fraction)",
        )
    height, width = image.shape
    return Pixels(
        shape=(height, width),
        mean=float(image.mean(dtype=np.float64)),
        std=float(image.std(dtype=np.float64)),
        digest=hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()[:24],
    )


def odd_shapes(
    shapes: Sequence[tuple[int, int] | None], groups: Sequence[str], settled: Sequence[bool]
) -> dict[int, Fault]:
    """Find micrographs whose shape is not that of most in their optics group.

    Shapes that were accepted before (``settled``) decide where there are any, so that new files never
    overturn old ones; ties go to the shape seen first. None stands for a file that is set aside already.
    """
    faults = {}
    for group in set(groups):
        rows = [i for i, g in enumerate(groups) if g == group and shapes[i] is not None]
        voters = [i for i in rows if settled[i]] or rows
        if not voters:
            continue
        usual = Counter(shapes[i] for i in voters).most_common(1)[0][0]
        assert usual is not None
        for i in rows:
            shape = shapes[i]
            if shape is not None and shape != usual:
                faults[i] = Fault(
                    f"wrong shape: {shape[1]} × {shape[0]} pixels", f"{usual[1]} × {usual[0]}, as most have"
                )
    return faults


def odd_headers(pixels: Sequence[float | None], groups: Sequence[str], cfg: SessionCheck) -> dict[int, Fault]:
    """Find micrographs whose header tells another pixel size than most headers of their optics group.

    Headers are not trusted for the pixel size itself; but one that differs from its neighbours marks
    another magnification. None stands for a header that tells nothing.
    """
    faults = {}
    for group in set(groups):
        told = {i: p for i, p in enumerate(pixels) if p is not None and groups[i] == group}
        if len(told) < 3:
            continue
        usual, count = Counter(round(p, 3) for p in told.values()).most_common(1)[0]
        if count * 2 <= len(told):
            continue
        for i, pixel in told.items():
            if abs(pixel / usual - 1) > cfg.max_header_pixel_deviation:
                faults[i] = Fault(
                    f"wrong pixel size: its header says {pixel:g} Å", f"{usual:g} Å, as most headers say"
                )
    return faults


def duplicates(digests: Sequence[str | None], ages: Sequence[int], settled: Sequence[bool]) -> dict[int, int]:
    """Find copies: row → the row that it repeats.

    Of equal ones stays what was accepted before, else the oldest file, else the first in order.
    """
    best: dict[str, int] = {}
    order = sorted(range(len(digests)), key=lambda i: (not settled[i], ages[i], i))
    copies = {}
    for i in order:
        digest = digests[i]
        if digest is None:
            continue
        if digest in best:
            copies[i] = best[digest]
        else:
            best[digest] = i
    return copies


def assign_halves(
    accepted: Sequence[bool],
    stored: Sequence[int | None],
    imported: Sequence[int | None],
    shard: int,
) -> list[int | None]:
    """Assign half-sets 1 and 2, alternating by rank among the accepted micrographs of a shard.

    What is stored stays for ever and counts in the rank, also if the file vanished since; what the user's
    table says wins. Shards of odd and even number start with different halves, so that many shards with
    an odd number of micrographs balance.
    """
    halves: list[int | None] = []
    rank = 0
    for ok, old, told in zip(accepted, stored, imported, strict=True):
        half: int | None = None
        if ok or old is not None:
            half = told or old or 1 + (rank + shard + 1) % 2
            rank += 1
        halves.append(half)
    return halves

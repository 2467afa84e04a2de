"""Look through a volume slice by slice and judge each."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from emflow.vem.config import VemCheck
from emflow.vem.look import Look, brightness, faults, look_at
from emflow.vem.shifts import SMALLEST_PX, Correlator, Pair, corrections, positions
from emflow.vem.slices import Slices


@dataclass(frozen=True)
class Checked:
    """A volume's slices as judged, with what the judgement rests on, one entry for each place."""

    slices: Slices
    looks: list[Look]
    """Of stored slices."""
    similar: np.ndarray
    """Correlation of a stored slice with the more similar of its neighbours."""
    course: np.ndarray
    """(n, 2), how the content moves from the first used slice on, the faults undone, in pixels."""
    sure_px: float | None
    """Shift between neighbours that can be told from the specimen's own changes; None in too small a field."""


def check_slices(read: Callable[[int], Tensor], places: Sequence[int], cfg: VemCheck) -> Checked:
    """Judge the slices of a volume; two are held in memory at a time.

    Parameters
    ----------
    read
        Reads a stored slice.
    places
        Place of each stored slice along the axis, increasing, the first 0.
    """
    looks, pairs, correlator = _look_through(read, len(places))
    similar, across = _similarity(pairs, len(places))
    why = faults(looks, similar, across, math.prod(correlator.shape), cfg)
    fit = np.array([not reasons for reasons in why])
    used = [n for n, reasons in enumerate(why) if not reasons]
    known = {(pair.below, pair.above) for pair in pairs}
    pairs = [pair for pair in pairs if fit[pair.below] and fit[pair.above]]
    for below, above in zip(used, used[1:], strict=False):
        if (below, above) not in known:
            pairs.append(_pair(correlator, read, below, above))
    order = {n: place for place, n in enumerate(used)}
    chain = [replace(pair, below=order[pair.below], above=order[pair.above]) for pair in pairs]
    errors = np.zeros(max(0, len(used) - 1))
    for pair in chain:
        if pair.above == pair.below + 1:
            errors[pair.below] = pair.error_px
    place = positions(len(used), chain, cfg.window_slices)
    moved, course = corrections(place, errors, cfg.window_slices, cfg.least_shift_px)
    wide_enough = min(correlator.shape) >= SMALLEST_PX
    if not wide_enough:
        moved, course = np.zeros_like(place), place
    scale, offset = brightness(looks, fit, cfg.window_slices)
    for n in used:
        change = abs(scale[n] * looks[n].mean + offset[n] - looks[n].mean) / max(looks[n].deviation, 1e-12)
        if change > cfg.brightness_jump or not 2 / 3 < scale[n] < 1.5:
            why[n].append("other brightness")
        if np.any(moved[order[n]]):
            why[n].append("shifted")
    count = places[-1] + 1
    out = Slices.plain(count)
    out.stored[:] = -1
    out.used[:] = False
    reasons = ["missing"] * count
    drift = np.full((count, 2), np.nan)
    for n, at in enumerate(places):
        out.stored[at], out.used[at] = n, fit[n]
        reasons[at] = ", ".join(why[n])
        out.scale[at], out.offset[at] = scale[n], offset[n]
        if fit[n]:
            out.shifts[at], drift[at] = np.round(moved[order[n]], 3) + 0.0, course[order[n]]
    return Checked(
        Slices(out.stored, out.used, tuple(reasons), out.shifts, out.scale, out.offset),
        looks,
        similar,
        drift,
        3 * float(np.median(errors)) if wide_enough and len(errors) else None,
    )


def _look_through(read: Callable[[int], Tensor], count: int) -> tuple[list[Look], list[Pair], Correlator]:
    """Look at each slice, and correlate it with the two different ones before it."""
    looks: list[Look] = []
    pairs: list[Pair] = []
    before: list[tuple[int, Tensor]] = []
    correlator: Correlator | None = None
    for n in range(count):
        image = read(n)
        looks.append(look_at(image))
        correlator = correlator or Correlator((image.shape[0], image.shape[1]))
        if looks[-1].deviation == 0 or (n and looks[-1].digest == looks[-2].digest):
            continue
        transform = correlator.prepare(image)
        for other, there in before:
            pairs.append(Pair(other, n, *correlator.compare(there, transform)))
        before = [*before[-1:], (n, transform)]
    assert correlator is not None
    return looks, pairs, correlator


def _pair(correlator: Correlator, read: Callable[[int], Tensor], below: int, above: int) -> Pair:
    lower, upper = (correlator.prepare(read(n)) for n in (below, above))
    return Pair(below, above, *correlator.compare(lower, upper))


def _similarity(pairs: list[Pair], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of each slice with the more similar neighbour, and of its neighbours with one another."""
    similar, across = np.zeros(count), np.full(count, np.nan)
    found = {(pair.below, pair.above): pair.correlation for pair in pairs}
    looked = sorted({n for key in found for n in key})
    for place, n in enumerate(looked):
        around = [*looked[max(0, place - 1) : place], *looked[place + 1 : place + 2]]
        similar[n] = max(found.get((min(n, other), max(n, other)), 0.0) for other in around)
        if len(around) == 2:
            across[n] = found.get((around[0], around[1]), np.nan)
    return similar, across


def places_of(names: Sequence[str]) -> list[int]:
    """Place of each file along the axis by the numbers in its name; one after the other where they tell nothing.

    The last number that differs between files counts; its most common step is one slice.
    """
    plain = list(range(len(names)))
    numbers = [[int(part) for part in re.findall(r"\d+", name)] for name in names]
    if len(names) < 3 or len({len(row) for row in numbers}) != 1:
        return plain
    columns = [column for column in zip(*numbers, strict=True) if len(set(column)) == len(names)]
    if not columns:
        return plain
    steps = np.diff(np.array(columns[-1]))
    step = Counter(steps.tolist()).most_common(1)[0][0]
    if step < 1 or np.any(steps < 1) or np.any(steps % step) or steps.sum() // step > 2 * len(names):
        return plain
    return [0, *(np.cumsum(steps) // step).tolist()]


def listed(checked: Checked) -> Iterator[tuple[int, str]]:
    """Places where something is odd, and what."""
    return ((place, reason) for place, reason in enumerate(checked.slices.reasons) if reason)

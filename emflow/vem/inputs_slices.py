"""A measured volume as its table of slices says: absent ones interpolated, the others in register and evenly bright."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emflow.io.star import floats, integers, read_table
from emflow.io.volume import Volume
from emflow.step import EmflowError
from emflow.vem.blocks import Span
from emflow.vem.grid import TAPS, interpolate
from emflow.vem.inputs import as_float
from emflow.vem.slices import Slices

BLOCK = "slices"
COLUMNS = (
    "emflowSliceStored",
    "emflowSliceUsed",
    "emflowSliceReason",
    "emflowShiftYPixel",
    "emflowShiftXPixel",
    "emflowBrightnessScale",
    "emflowBrightnessOffset",
)


def read_slices(path: Path, volume: Volume) -> Slices:
    """Read a table that ``vem check`` wrote.

    Raises
    ------
    EmflowError
        If it is another volume's, or leaves fewer than two slices to use.
    """
    table = read_table(path, BLOCK, *COLUMNS)
    stored = integers(table, COLUMNS[0])
    used = integers(table, COLUMNS[1]).astype(bool)
    there = stored[stored >= 0]
    if not np.array_equal(there, np.arange(volume.shape[0])):
        raise EmflowError(
            f"{path}: tells of {len(there)} stored slices; {volume.path} has {volume.shape[0]}. It is another "
            "volume's table, or the volume has changed: run `emflow vem check` again."
        )
    if np.any(used & (stored < 0)):
        raise EmflowError(f"{path}: emflowSliceUsed is 1 where no slice is stored (emflowSliceStored -1).")
    if used.sum() < 2:
        raise EmflowError(f"{path}: leaves {int(used.sum())} slices to use; expected at least 2.")
    shifts = np.stack([floats(table, COLUMNS[3]), floats(table, COLUMNS[4])], axis=1)
    reasons = tuple("" if text == "none" else text for text in table[COLUMNS[2]])
    return Slices(stored, used, reasons, shifts, floats(table, COLUMNS[5]), floats(table, COLUMNS[6]))


@dataclass(frozen=True)
class Measured:
    """A volume with one slice at each place along the axis, whether it is there or not."""

    volume: Volume
    slices: Slices
    align: bool = True
    """Move slices into register."""
    normalise: bool = False
    """Make them as bright as their neighbours."""

    @staticmethod
    def of(volume: Volume, table: Path | None, *, align: bool = True, normalise: bool = False) -> Measured:
        """Return a volume as a table says, without what lies outside its first and last used slices."""
        if table is None:
            return Measured(volume, Slices.plain(volume.shape[0]))
        return Measured(volume, read_slices(table, volume).between_used(), align, normalise)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Places along the axis, rows, columns."""
        return len(self.slices), *self.volume.shape[1:]

    @property
    def used(self) -> tuple[bool, ...]:
        """Of each place, whether its slice is used."""
        return tuple(bool(there) for there in self.slices.used)

    @property
    def resampled(self) -> int:
        """Slices that are moved by a part of a pixel: interpolated, no longer as measured."""
        moved = self.slices.shifts[self.slices.used] if self.align else np.zeros((1, 2))
        return int((moved != np.round(moved)).any(1).sum())

    def read(self, z: Span, y: Span, x: Span) -> Tensor:
        """Return a region as float32; what is absent is interpolated linearly between used slices.

        Its values do not depend on the region.
        """
        low, high = z[0], z[1] - 1
        while not self.slices.used[low]:
            low -= 1
        while not self.slices.used[high]:
            high += 1
        places = [place for place in range(low, high + 1) if self.slices.used[place]]
        found = dict(zip(places, self._read_used(places, y, x), strict=True))
        out = []
        for place in range(*z):
            if place in found:
                out.append(found[place])
                continue
            below, above = max(p for p in places if p < place), min(p for p in places if p > place)
            out.append(torch.lerp(found[below], found[above], (place - below) / (above - below)))
        return torch.stack(out)

    def _read_used(self, places: list[int], y: Span, x: Span) -> list[Tensor]:
        shifts = self.slices.shifts[places] if self.align else np.zeros((len(places), 2))
        spans = [
            (
                max(0, a - math.ceil(max(0.0, moved.max())) - TAPS),
                min(length, b + math.ceil(max(0.0, -moved.min())) + TAPS),
            )
            if moved.any()
            else (a, b)
            for (a, b), moved, length in zip((y, x), shifts.T, self.volume.shape[1:], strict=True)
        ]
        stored = self.slices.stored[places]
        first = int(stored[0])
        block = self.volume.read((slice(first, int(stored[-1]) + 1), slice(*spans[0]), slice(*spans[1])))
        pixels = torch.from_numpy(as_float(block[stored - first], self.volume.path))
        out = []
        for image, place, moved in zip(pixels, places, shifts, strict=True):
            for axis, (wanted, (start, _), shift) in enumerate(zip((y, x), spans, moved, strict=True)):
                image = _moved(image, axis, (wanted[0] - start, wanted[1] - start), float(shift))
            if self.normalise:
                image = image * float(self.slices.scale[place]) + float(self.slices.offset[place])
            out.append(image)
        return out

    def learned(self, max_slices: int, max_side_px: int) -> tuple[Tensor, Tensor]:
        """Return the middle of the volume, and of each of its slices whether it is used."""
        spans = []
        for n, most in zip(self.shape, (max_slices, max_side_px, max_side_px), strict=True):
            length = min(n, most)
            spans.append(((n - length) // 2, (n - length) // 2 + length))
        return self.read(*spans), torch.tensor(self.used[slice(*spans[0])])

    def middle(self, place: int, side: int) -> Tensor:
        """Return the middle part of a place's slice, at most so many pixels a side."""
        y, x = (((n - min(n, side)) // 2, (n + min(n, side)) // 2) for n in self.shape[1:])
        return self.read((place, place + 1), y, x)[0]


def _moved(image: Tensor, axis: int, wanted: Span, shift: float) -> Tensor:
    """Part of an image whose content is moved along an axis: copied where by whole pixels, else interpolated."""
    at = torch.arange(*wanted, dtype=torch.float64) - shift
    if shift == round(shift):
        return image.index_select(axis, at.long().clamp(0, image.shape[axis] - 1))
    return interpolate(image, at, axis)

"""What is read of a restored volume to be shown: a plane that holds the axis, and the power along it."""

from __future__ import annotations

import numpy as np
import torch

from emflow.io.volume import Volume
from emflow.vem.figures import Plane, Spectra
from emflow.vem.grid import Grid
from emflow.vem.inputs_slices import Measured
from emflow.vem.score import axial_spectra, high_frequency_power

_WIDEST = 384
"""Voxels of the plane that is shown along each axis, at most."""
_PLANES = 16


def read_plane(
    measured: Measured, grid: Grid, restored: Volume, error: Volume, mask: Volume | None = None
) -> Plane:
    """Read the xz plane through the middle, as far as it can be shown."""
    depth, rows, columns = measured.shape
    places = min(depth, max(2, int(_WIDEST / grid.ratio) + 1))
    low = (depth - places) // 2
    y, width = rows // 2, min(columns, _WIDEST)
    left = (columns - width) // 2
    seen = measured.read((low, low + places), (y, y + 1), (left, left + width))[:, 0].numpy()
    first = int(np.ceil(low * grid.ratio))
    last = min(restored.shape[0], int((low + places - 1) * grid.ratio) + 1)
    at = slice(first, last), slice(y, y + 1), slice(left, left + width)
    found, widths = (volume.read(at)[:, 0].astype(np.float32) for volume in (restored, error))
    refused = mask.read(at)[:, 0] > 0 if mask else np.zeros(found.shape, dtype=bool)
    shown = np.arange(first, last) / grid.ratio - low
    there = np.array(measured.used[low : low + places])
    voxel = restored.voxel_nm
    assert voxel is not None
    return Plane(seen, there, shown, found, widths, refused, voxel[2])


def read_spectra(restored: Volume, grid: Grid) -> Spectra:
    """Power along the axis as a part of the power within slices, of a cube in the middle."""
    side = min(*restored.shape, 256)
    z, y, x = (slice((n - side) // 2, (n - side) // 2 + side) for n in restored.shape)
    step = max(1, side // _PLANES)
    block = np.stack(
        [restored.read((z, slice(row, row + 1), x))[:, 0] for row in range(y.start, y.stop, step)]
    )
    planes = torch.from_numpy(block.astype(np.float32))
    frequency, _, power = axial_spectra(planes, planes.transpose(1, 2))
    return Spectra(frequency, power, high_frequency_power(frequency, power), grid.ratio)

"""The gaps between measured slices, folded so that a small network sees far along the axis.

A plane that holds the axis (xz or yz) has one row for each measured slice; ``factor - 1`` rows are missing in
each gap. The missing rows and pairs of columns become channels on the grid of the measured rows and half the
columns: each evaluation of the network then fills a whole gap.
"""

from __future__ import annotations

import torch
from torch import Tensor

COLUMNS = 2
"""Columns that share a place of the folded grid."""


def between(rows: Tensor, factor: int) -> Tensor:
    """Linear interpolation of the missing rows.

    Parameters
    ----------
    rows
        Measured rows, (N, L + 1, W).

    Returns
    -------
    (N, L, factor - 1, W).
    """
    part = (torch.arange(1, factor, device=rows.device, dtype=rows.dtype) / factor)[:, None]
    return rows[:, :-1, None] * (1 - part) + rows[:, 1:, None] * part


def fold(gaps: Tensor) -> Tensor:
    """(N, L, K, W) → (N, 2K, L, W/2); W must be even."""
    n, length, missing, width = gaps.shape
    split = gaps.reshape(n, length, missing, width // COLUMNS, COLUMNS)
    return split.permute(0, 2, 4, 1, 3).reshape(n, missing * COLUMNS, length, width // COLUMNS)


def unfold(folded: Tensor) -> Tensor:
    """(N, 2K, L, W/2) → (N, L, K, W): the inverse of :func:`fold`."""
    n, channels, length, width = folded.shape
    split = folded.reshape(n, channels // COLUMNS, COLUMNS, length, width)
    return split.permute(0, 3, 1, 4, 2).reshape(n, length, channels // COLUMNS, width * COLUMNS)


def neighbours(rows: Tensor) -> Tensor:
    """What the network is told of each gap: the measured rows above and below it; (N, L + 1, W) → (N, 4, L, W/2)."""
    return torch.cat([fold(rows[:, :-1, None]), fold(rows[:, 1:, None])], dim=1)


def divide(planes: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Keep every ``factor``-th row; (N, factor·L + 1, W) → rows (N, L + 1, W), missing (N, L, factor - 1, W)."""
    n, height, width = planes.shape
    gaps = planes[:, :-1].reshape(n, (height - 1) // factor, factor, width)
    return planes[:, ::factor], gaps[:, :, 1:]

"""The held-out slice test: measured slices are hidden, restored from their neighbours, and compared.

It is harder than the task itself, since the gap is twice as wide. And it is the only place where errors along
the axis can be seen without an isotropic volume: the interval, found on thinned-out xy slices, is corrected by
how much more (or less) the hidden slices differ from what is restored than thinned-out rows do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.vem.config import VemTrain
from emflow.vem.model import Filler
from emflow.vem.restore import fill_block
from emflow.vem.score import psnr
from emflow.vem.train import conformal, interval_factor, residual_spread, train_filler

FEWEST = 9
"""Measured slices that the test needs: fewer leave too few hidden ones."""


@dataclass(frozen=True)
class HeldOut:
    """What the hidden slices tell."""

    slices: int
    psnr_linear_db: float
    psnr_db: float
    widening: float
    """Factor by which the interval must be wider along the axis than on thinned-out xy slices."""


def hold_out(
    slices: Tensor,
    half: Filler,
    cfg: VemTrain,
    device: torch.device,
    size_px: int = 512,
    used: Tensor | None = None,
) -> HeldOut | None:
    """Hide every second slice, learn from the others to fill the doubled gap, and compare.

    Parameters
    ----------
    slices
        Measured slices in the filler's units, (S, H, W), S ≥ FEWEST.
    half
        Filler of the doubled factor, with first weights; it is trained here.
    size_px
        Side of the middle part of the slices that is compared; bounds the cost.
    used
        Which slices are used; the others are neither learned from nor compared.

    Returns
    -------
    None where too few slices are used. The filler's interval is that of hidden slices then.
    """
    kept, hidden = slices[::2], slices[1::2]
    fit = torch.ones(len(slices), dtype=torch.bool) if used is None else used
    whole = fit[:-2:2] & fit[1:-1:2] & fit[2::2]
    if whole.sum() < FEWEST // 2:
        return None
    stretch = half.grid.stretch
    half.spread = residual_spread(kept[fit[::2]], half.factor, cfg, stretch)
    half.network = train_filler(half, kept[fit[::2]], cfg, device)
    expected = interval_factor(half, hidden[fit[1::2]], cfg, device, middle=True)
    part = _middle(kept, size_px).to(device)
    filled, scale = fill_block(half, part)
    row = half.factor // 2 - 1
    truth = _middle(hidden, size_px)[: len(filled)].to(device)[whole]
    errors = (truth - filled[whole, row]).abs()
    half.quantile = conformal(errors / scale[whole, row], cfg.coverage)
    linear = ((part[:-1] + part[1:]) / 2)[whole]
    peak = float(slices.max() - slices.min())
    return HeldOut(
        len(truth),
        psnr(linear, truth, peak),
        psnr(filled[whole, row], truth, peak),
        half.quantile / expected,
    )


def _middle(slices: Tensor, size: int) -> Tensor:
    height, width = slices.shape[1:]
    y, x = (max(0, (n - size) // 2) for n in (height, width))
    return slices[:, y : y + size, x : x + size]

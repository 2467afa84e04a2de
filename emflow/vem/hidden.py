"""Judge a denoiser on the parts of its pairs that were hidden from the training, and calibrate its interval there."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from emflow.vem.config_images import VemTrainImages
from emflow.vem.denoiser import FoldedUNet, oriented
from emflow.vem.pairs import Pair
from emflow.vem.train import conformal

_BLENDS = (0.0, 0.25, 0.5, 0.75, 1.0)
_GAUSSIANS = (0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0)
"""Deviations of the Gaussian filters that the network is compared with, in pixels."""


@dataclass(frozen=True)
class Judged:
    """Figures on hidden pixels. All that is compared has its intensities matched to the target's where both are known."""

    share: float
    """Of the matching pixels that are hidden."""
    psnr_db: float
    psnr_noisy_db: float
    psnr_gaussian_db: float
    """Of the best Gaussian filter, chosen where the network learned."""
    gaussian_px: float
    quantile: float
    """Half-width of the interval in units of the stated scale."""
    coverage: float
    """Of the interval, in blocks that it was not calibrated on."""


def blended(
    start: FoldedUNet, trained: FoldedUNet, pairs: Sequence[Pair], tile_px: int
) -> tuple[FoldedUNet, float]:
    """Mix the weights that a fine-tuning began with and ended with, as serves hidden pixels best.

    What was learned from little may be worse elsewhere; the mean of both is often better than either (M. Wortsman et
    al., CVPR 2022).

    Returns
    -------
    The network, and the share of the trained weights in it.
    """
    candidates = []
    for share in _BLENDS:
        network = copy.deepcopy(start)
        with torch.no_grad():
            for mine, other in zip(network.parameters(), trained.parameters(), strict=True):
                mine.lerp_(other, share)
        error = sum(
            float((oriented(network, p.noisy, tile_px, 1)[0] - p.target)[p.hidden & p.matched].square().sum())
            for p in pairs
        )
        candidates.append((error, share, network))
    _, share, network = min(candidates, key=lambda found: found[0])
    return network, share


def judge(network: FoldedUNet, pairs: Sequence[Pair], cfg: VemTrainImages) -> Judged:
    """Score a network on hidden pixels, beside the noisy image and the best Gaussian filter."""
    found = [oriented(network, p.noisy, cfg.tile_px, cfg.orientations) for p in pairs]
    hidden = [p.hidden & p.matched for p in pairs]
    target = _joined([p.target for p in pairs], hidden)
    score = (target - _joined([f[0] for f in found], hidden)).abs() / _joined(
        [f[1] for f in found], hidden
    ).exp()
    block = _joined([p.block * len(pairs) + number for number, p in enumerate(pairs)], hidden)
    even = torch.isin(block, block.unique()[::2])
    inside = [
        (score[there] <= conformal(score[here], cfg.coverage)).float()
        for here, there in ((even, ~even), (~even, even))
    ]
    peak = float(target.max() - target.min())

    def psnr(images: list[Tensor]) -> float:
        error = float((_joined(images, hidden).double() - target).square().mean())
        return 10 * math.log10(peak**2 / error)

    gaussian = {sigma: [_smoothed(p.noisy, sigma) for p in pairs] for sigma in _GAUSSIANS}
    learned = [p.matched & ~p.hidden for p in pairs]
    errors = {s: _matched(images, pairs, learned)[1] for s, images in gaussian.items()}
    best = min(errors, key=lambda s: errors[s])
    return Judged(
        share=float(sum(h.sum() for h in hidden) / sum(p.matched.sum() for p in pairs)),
        psnr_db=psnr([f[0] for f in found]),
        psnr_noisy_db=psnr(_matched([p.noisy for p in pairs], pairs, learned)[0]),
        psnr_gaussian_db=psnr(_matched(gaussian[best], pairs, learned)[0]),
        gaussian_px=best,
        quantile=conformal(score, cfg.coverage),
        coverage=float(torch.cat(inside).mean()),
    )


def _joined(images: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    return torch.cat([image[mask] for image, mask in zip(images, masks, strict=True)])


def _smoothed(image: Tensor, sigma: float) -> Tensor:
    return torch.from_numpy(gaussian_filter(image.numpy(), sigma))


def _matched(
    images: list[Tensor], pairs: Sequence[Pair], masks: Sequence[Tensor]
) -> tuple[list[Tensor], float]:
    """Images with their intensities fitted to the targets' on masks, and the squared error that is left there."""
    known, target = (_joined(part, masks).double().numpy() for part in (images, [p.target for p in pairs]))
    gain, offset = np.polyfit(known, target, 1)
    left = float(((gain * known + offset - target) ** 2).mean())
    return [image * float(gain) + float(offset) for image in images], left

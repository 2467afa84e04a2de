"""What the raw images say about the map: their agreement with maps that they did not make.

Each image is compared with two maps of equally many particles, projected at its pose: one of its own half,
without the quarter that it belongs to, and one of the other half. Its own noise is in neither. Where no pose
was fitted to noise the two agree with it equally well; poses that follow the noise of their own half's map
make the first agree better (cross-validation against held-out particles).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from emflow.em.batches import in_batches
from emflow.em.fsc import first_below, fsc
from emflow.em.images import shell_means
from emflow.em.masks import spherical_part
from emflow.em.slices import HalfPlane, Spectrum, volume_spectrum
from emflow.validate.maps import THRESHOLD
from emflow.validate.subsets import QUARTERS, Posed, Quarters

_BATCH = 256
_NOISE_IMAGES = 256
"""Images that tell how much of the images' power is signal."""
_WHAT = "images compared with half maps"
_PAIRS = math.sqrt(2)
"""Each pair of images counts from both sides, once by way of each one's map: the spread of the mean is √2 larger."""


@dataclass(frozen=True)
class RingCurves:
    """Mean correlation of the images with projections of the maps, by Fourier ring; each (S,), float64."""

    own: Tensor
    """With the image's own half, without its quarter."""
    held_out: Tensor
    """With the other half."""
    own_error: Tensor
    """Standard error."""
    held_out_error: Tensor
    difference_error: Tensor
    """Of own − held out."""
    phantom: Tensor
    """Part of the own half map's power that is noise which poses were fitted to."""
    box: int
    voxel_size_angstrom: float

    @property
    def difference(self) -> Tensor:
        """Own − held out."""
        return self.own - self.held_out

    def pooled(self, curve: Tensor, error: Tensor, first: int, last: int) -> tuple[float, float]:
        """Weighted mean of a curve over rings ``first`` to ``last``, and its standard deviations above zero."""
        weight = error[first : last + 1].clamp(min=1e-12) ** -2
        mean = float((weight * curve[first : last + 1]).sum() / weight.sum())
        return mean, mean * float(weight.sum().sqrt())


@dataclass(frozen=True)
class Agreement:
    """What the images say, ring by ring and one by one."""

    rings: RingCurves
    score: Tensor
    """Matched-filter signal-to-noise ratio of each image against the other half's map, (N,): noise gives N(0, 1)."""
    expected: Tensor
    """What it would be for a particle as strong as the map says, (N,)."""

    @property
    def amplitude(self) -> Tensor:
        """How strongly each image shows the map, (N,): 1 for a particle as the map has it, 0 for noise."""
        return self.score / self.expected.clamp(min=1e-6)

    @property
    def significance(self) -> float:
        """Mean score in standard deviations above that of noise."""
        return (
            float(self.score.double().mean()) * math.sqrt(len(self.score)) / _PAIRS
            if len(self.score)
            else 0.0
        )


def compare_images(posed: Posed, quarters: Quarters, mask: Tensor) -> Agreement:
    """Compare every image with its own half and with the other.

    Parameters
    ----------
    posed
        The images with their poses.
    quarters
        Sums of the reconstruction (:func:`accumulate_quarters`).
    mask
        Multiplied to the maps, (box, box, box) of the quarters.

    Returns
    -------
    Correlations per ring, averaged over the images, and a score for each image. The score leaves out the
    maps' spherically symmetric part: a ball shows neither a particle nor its pose.
    """
    device, plane = posed.images.device, quarters.plane
    count, shells = len(posed.images), int(plane.shell[-1]) + 1
    score, expected = torch.zeros(count), torch.zeros(count)
    moments = torch.zeros(6, shells, dtype=torch.float64, device=device)
    powers = torch.zeros(3, shells, dtype=torch.float64, device=device)
    noise: Tensor | None = None
    for quarter in range(QUARTERS):
        maps = [quarters.without(half, quarter) * mask for half in (1, 2)]
        aspherical = [volume - spherical_part(volume) for volume in maps]
        wanted = wiener_weights(fsc(*aspherical), shells).to(device)
        spectra = [volume_spectrum(volume, float(plane.radius[-1])) for volume in maps]
        shaped = [volume_spectrum(volume, float(plane.radius[-1])) for volume in aspherical]
        for half in (0, 1):
            rows = quarters.rows[half][quarter].sort().values
            pair = spectra[half], spectra[1 - half]
            if noise is None:
                first = rows[:_NOISE_IMAGES]
                power_of = partial(_power_of_other, posed, plane, first, pair)
                shared = torch.stack(in_batches(power_of, len(first), _BATCH, _WHAT)).sum(0) / len(first)
                noise = (quarters.noise - shared.float()).maximum(0.1 * quarters.noise)
            compare = partial(_compare, posed, plane, rows, (*pair, shaped[1 - half]), (wanted, noise))
            batches = in_batches(compare, len(rows), _BATCH, _WHAT)
            score[rows] = torch.cat([batch.score for batch in batches])
            expected[rows] = torch.cat([batch.expected for batch in batches])
            for batch in batches:
                moments += batch.moments
                powers += batch.powers
    rings_of = _curves(moments.cpu(), powers.cpu(), count, quarters)
    return Agreement(rings_of, score, expected)


@dataclass(frozen=True)
class _Batch:
    """What one batch of images adds."""

    moments: Tensor
    powers: Tensor
    score: Tensor
    expected: Tensor


def _power_of_other(
    posed: Posed, plane: HalfPlane, rows: Tensor, maps: tuple[Spectrum, Spectrum], here: slice
) -> Tensor:
    """Power by ring that some images share with the second of two maps, summed over the images; (S,)."""
    centred, ctf = posed.centred(rows[here], plane)
    rotations = posed.rotations[rows[here]].to(ctf.device)
    predicted = [spectrum.slices(rotations, plane) * ctf[:, None] for spectrum in maps]
    return ring_correlations(centred, predicted, plane)[1][:, 1].sum(0)


def _compare(
    posed: Posed,
    plane: HalfPlane,
    rows: Tensor,
    maps: tuple[Spectrum, Spectrum, Spectrum],
    weights: tuple[Tensor, Tensor],
    here: slice,
) -> _Batch:
    """Compare some images with the map of their half, of the other, and the other's without what is spherical.

    ``weights`` are the Wiener weights (S,) and the noise (G, S).
    """
    part = rows[here]
    wanted, noise = weights
    centred, ctf = posed.centred(part, plane)
    rotations = posed.rotations[part].to(ctf.device)
    predicted = [spectrum.slices(rotations, plane) * ctf[:, None] for spectrum in maps[:2]]
    rings, power = ring_correlations(centred, predicted, plane)
    weight = (wanted / noise)[posed.images.group[part].to(ctf.device)][:, plane.shell]
    shape = maps[2].slices(rotations, plane) * ctf[:, None]
    found, most = matched_filter(centred, shape, wanted[plane.shell], weight)
    moments = torch.cat([rings.sum(0), rings.square().sum(0)])
    return _Batch(moments, power.sum(0), found.cpu(), most.cpu())


def wiener_weights(curve: Tensor, shells: int) -> Tensor:
    """Signal over signal and noise per shell, (shells,), from the FSC of two maps; 0 from where it falls below 0.143.

    The first two shells, of few pixels, may dip without ending the rest.
    """
    end = first_below(curve[2:], THRESHOLD)
    weight = curve.clamp(0, 1).float()
    if end is not None:
        weight[end + 2 :] = 0
    weight[0] = 0
    out = torch.zeros(shells)
    out[: min(shells, len(weight))] = weight[:shells]
    return out


def ring_correlations(centred: Tensor, predicted: list[Tensor], plane: HalfPlane) -> tuple[Tensor, Tensor]:
    """Correlate images (B, 2, M) with two predictions each, by ring.

    Returns
    -------
    FRC with the first, the second, and their difference, (B, 3, S); and mean powers per pixel: of the images
    with the first and with the second prediction, and of the first prediction, (B, 3, S).
    """
    cross = [shell_means((centred * p).sum(1), plane) for p in predicted]
    own, other = (shell_means(p.square().sum(1), plane) for p in predicted)
    power = shell_means(centred.square().sum(1), plane)
    tiny = 1e-20
    one = cross[0] / (own * power).sqrt().clamp(min=tiny)
    two = cross[1] / (other * power).sqrt().clamp(min=tiny)
    return torch.stack([one, two, one - two], 1).double(), torch.stack([cross[0], cross[1], own], 1).double()


def matched_filter(
    centred: Tensor, predicted: Tensor, wiener: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Signal-to-noise ratio of images against predictions, and what a particle's would be: each (B,).

    With y the image, p = C·P its prediction from a map with Wiener weight F and noise power σ²: the score is
    Σ Re(y* F p)/σ² over √(Σ F²|p|²/(2σ²)), normal with mean 0 and deviation 1 for white noise that is in neither;
    a particle has √(2 Σ F²|p|²/σ²) on average.

    Parameters
    ----------
    centred, predicted
        (B, 2, M).
    wiener
        F of each pixel, (M,).
    weight
        F/σ² of each pixel, (B, M).
    """
    cross = ((centred * predicted).sum(1) * weight).sum(1)
    power = (predicted.square().sum(1) * weight * wiener).sum(1)
    return cross / (power / 2).sqrt().clamp(min=1e-12), (2 * power).sqrt()


def _curves(moments: Tensor, powers: Tensor, count: int, quarters: Quarters) -> RingCurves:
    mean = moments[:3] / count
    error = ((moments[3:] / count - mean**2).clamp(min=0) / max(count - 1, 1)).sqrt() * _PAIRS
    phantom = (powers[0] - powers[1]) / powers[2].clamp(min=1e-30)
    return RingCurves(
        mean[0], mean[1], error[0], error[1], error[2], phantom, quarters.box, quarters.voxel_size_angstrom
    )

"""How sure an FSC is: independent numbers in a shell, confidence band, thresholds, a test by random signs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from emflow.device import generator

HALF_BIT, ONE_BIT = 0.5, 1.0
_COARSE = 48  # least side of the grid on which a mask's transform is looked at
_NORMAL_95 = 1.959964
_NOT_WHITE = 1.12  # the noise's slope within the mask's transform costs so much more (calibrated, docs/validate-curves.md)
_FLIPS = 9999
_BLOCKS = 1000


@dataclass(frozen=True)
class Independent:
    """Independent real numbers in each shell of one half map's transform, under a mask; each (shells,), float64."""

    numbers: Tensor
    """Of noise; at least 1."""
    numbers_of_signal: Tensor
    """Of noise times signal: fewer, where the signal fills a part of the mask only."""

    @classmethod
    def count(cls, weight: Tensor, signal: Tensor | None = None, symmetry_order: int = 1) -> Independent:
        """Count them for maps that are multiplied by a weight; see :func:`correlated_pixels`.

        A shell of radius i has 4πi² Fourier pixels, of which Friedel mates are the same complex number: as
        many real numbers. Neighbours that a mask correlates count once, and so do the copies of a symmetry.

        Parameters
        ----------
        weight
            The mask, or where the maps are not zero; (n, n, n).
        signal
            Power of the signal under the mask, in real space and up to noise: the product of both masked half
            maps. None takes the weight's square.
        symmetry_order
            Order of the point group that the maps have.
        """
        shells = weight.shape[-1] // 2 + 1
        radius = torch.arange(shells, dtype=torch.float64)
        # the plane kx = 0 is stored, and so counted, twice: (Σw)²/Σw² of these weights
        near = 1 / radius.clamp_min(1)
        full = 4 * math.pi * radius.square() * (1 + near / 2).square() / (1 + 1.5 * near) / symmetry_order
        noise = weight.square()
        crowd = correlated_pixels(noise, noise, shells)
        crowd_signal = crowd if signal is None else correlated_pixels(noise, signal, shells)
        counts = [1 + _NOT_WHITE * (c - 1) for c in (crowd, torch.maximum(crowd, crowd_signal))]
        return cls((full / counts[0]).clamp_min(1), (full / counts[1]).clamp_min(1))

    @property
    def noise_deviation(self) -> Tensor:
        """Standard deviation that the FSC of pure noise has in each shell, at most 1."""
        return self.numbers.rsqrt()

    def band(self, curve: Tensor, more: float = 0.0) -> tuple[Tensor, Tensor]:
        """Confidence band (95 % in each shell) of an FSC curve (shells,): lower and upper limit.

        Where the signal is fixed and the noises are independent, the variance of the FSC ρ is, to first order,
        (1 − ρ)²·[(1 + ρ²)/M + 2ρ(1 − ρ)/M′] for M independent numbers of noise, M′ of noise times signal. The
        limits are symmetric in z = artanh(FSC), and M is less three for small shells, as Fisher has it; his variance
        1/(M − 3) itself is for a random signal, and too wide here.
        ``more`` is added to the bracket's 1 + ρ²: what a correction, itself from noise, brings in.
        """
        rho = curve.clamp(0, 1 - 1e-9)
        few = (self.numbers.clamp_min(4) - 3, self.numbers_of_signal.clamp_min(4) - 3)
        variance = (1 + more + rho.square()) / few[0] + 2 * rho * (1 - rho) / few[1]
        width = _NORMAL_95 * variance.sqrt() / (1 + rho)
        z = torch.atanh(curve.clamp(-1 + 1e-9, 1 - 1e-9))
        return torch.tanh(z - width), torch.tanh(z + width)

    def bit_threshold(self, bits: float) -> Tensor:
        """FSC at which a shell of the full map holds ``bits`` of information: (shells,), float64.

        With N independent complex numbers and a signal-to-noise ratio R = (2^bits − 1)/2 in one half map:
        (R + 2√(R/N) + 1/√N)/(1 + R + 2√(R/N)). Shells with fewer than two of them cannot be judged: 0.

        Source: van Heel and Schatz, J. Struct. Biol. 151, 250 (2005), equations 13 to 17.
        """
        count = self.numbers / 2
        ratio = (2**bits - 1) / 2
        cross = 2 * (ratio / count).sqrt()
        return torch.where(count >= 2, (ratio + cross + count.rsqrt()) / (1 + ratio + cross), 0.0)


def correlated_pixels(power1: Tensor, power2: Tensor, shells: int) -> Tensor:
    """Number of pixels of a shell that one of them shares its noise with, under a real-space weight: (shells,).

    White noise times a weight m has the covariance W(q) between Fourier pixels a distance q apart, W being the
    transform of m². The variance of a shell's sum of products of two such noises is that of white noise times
    Σ_q |W(q)/W(0)|² P(q), where P(q) = 1/(2|q|) (1 for q = 0) is the chance, over directions, that a pixel q
    away from one in the shell is in it too. For a weight of 1 that is 1. (The factor (3D/2L)² of van Heel and
    Schatz 2005 is its approximation for a ball of diameter D in a box L.)

    Parameters
    ----------
    power1, power2
        m² of the two factors, shape (n, n, n): twice the same for two noises; for noise times signal the second
        is the signal's. They are looked at on a coarser grid, since their transforms are compact.
    shells
        Number of shells; pixels more than a diameter 2i apart are in no shell of radius i together.
    """
    # the box must stay the same: a remainder is padded with nothing, which brings the pixels closer
    factor = max(1, power1.shape[-1] // _COARSE)
    rest = -power1.shape[-1] % factor
    spectra = []
    for power in (power1, power2):
        padded = functional.pad(power.float(), [0, rest] * 3)[None, None]
        coarse = functional.avg_pool3d(padded, factor)[0, 0].double()
        spectra.append(torch.fft.fftn(coarse / coarse.sum()))
    n = spectra[0].shape[-1]
    stretch = power1.shape[-1] / (n * factor)
    axis = (torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) * stretch).square()
    distance = (axis[:, None, None] + axis[:, None] + axis).sqrt()
    chance = torch.where(distance < 1, 1 - distance / 2, 1 / (2 * distance.clamp_min(1))) * stretch**3
    share = (spectra[0] * spectra[1].conj()).real.cpu() * chance
    bins = torch.zeros(int(distance.max()) + 2, dtype=torch.float64)
    bins.index_add_(0, distance.reshape(-1).ceil().long(), share.reshape(-1))
    reach = (2 * torch.arange(shells)).clamp(0, len(bins) - 1)
    return bins.cumsum(0)[reach].clamp_min(1)


def sign_test(
    spectrum1: Tensor, spectrum2: Tensor, last_shell: int, block: int, order: int, seed: int
) -> float:
    """Probability that noise agrees as well up to a shell, from random signs; one-sided.

    Without common signal the products Re(F₁F₂*) are as likely negative as positive. They are whitened by shell,
    summed in blocks of Fourier pixels, and the sum is held against those with random signs of the blocks: nothing
    is assumed about the noise's power, shape or direction.

    Parameters
    ----------
    spectrum1, spectrum2
        Half-complex, (n, n, n//2 + 1).
    last_shell
        Shells 1 … last_shell count.
    block
        Least side of the blocks, in Fourier pixels: as wide as neighbours are correlated.
    order
        Order of the maps' point group: so many blocks say the same, which scales the noise by its root.
    seed
        Of the signs.
    """
    reach, n = last_shell + 1, spectrum1.shape[0]
    rows = torch.arange(-reach, reach + 1) if 2 * reach < n else torch.arange(-((n - 1) // 2), n // 2 + 1)
    columns = torch.arange(min(reach, n // 2) + 1)
    parts = [s[rows % n][:, rows % n][..., : len(columns)].cpu() for s in (spectrum1, spectrum2)]
    radius = (rows.square()[:, None, None] + rows.square()[:, None] + columns.square()).double().sqrt()
    shell = (radius + 0.5).long()
    # of the plane kx = 0 one half says what the other does
    later = (rows[:, None] > 0) | ((rows[:, None] == 0) & (rows > 0))
    chosen = (shell >= 1) & (shell <= last_shell) & ((columns > 0) | later[..., None])
    first, second = (part[chosen] for part in parts)
    where = shell[chosen]
    power = [
        torch.bincount(where, s.abs().square().double(), minlength=last_shell + 1) for s in (first, second)
    ]
    scale = (power[0] * power[1]).sqrt() / torch.bincount(where, minlength=last_shell + 1).clamp_min(1)
    product = (first.real * second.real + first.imag * second.imag).double() / scale.clamp_min(1e-300)[where]
    # more blocks than this make it no sharper, and cost
    block = max(block, math.ceil((len(where) / _BLOCKS) ** (1 / 3)))
    tiles = (rows + n) // block
    across = int(tiles.max()) + 1
    names = (tiles[:, None, None] * across + tiles[:, None]) * across + columns // block
    _, label = names.expand(shell.shape)[chosen].unique(return_inverse=True)
    sums = torch.bincount(label, product).float()
    draws = generator(seed, last_shell, 3)
    beaten, told = 0, float(sums.sum()) / math.sqrt(order)
    for part in torch.arange(_FLIPS).split(max(1, (1 << 22) // max(len(sums), 1))):
        signs = torch.randint(0, 2, (len(part), len(sums)), generator=draws, dtype=torch.int8)
        beaten += int(((2.0 * signs - 1) @ sums >= told).sum())
    return (beaten + 1) / (_FLIPS + 1)

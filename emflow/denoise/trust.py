"""What a denoiser adds that is not in the data, told by an image of the same scene with independent noise.

With signal s, an image x = s + m and another y = s + n whose noises are independent, and the denoised d = f(x), means over
a band of frequencies give, without any truth (J. Lehtinen et al., ICML 2018, for the principle):

- signal S = ⟨x·y⟩, noise N = ⟨x²⟩ − S,
- what the other image bears out of the denoised one, C = ⟨d·y⟩ = ⟨d·s⟩: no chance detail of d is in y,
- the Fourier ring correlations with the unseen signal, √(S/⟨x²⟩) of the raw image and C/√(⟨d²⟩·S) of the denoised,
- the error ⟨(d − s)²⟩ = ⟨d²⟩ − 2C + S, and with it the unsupervised SNR, S over the error (the unsupervised mean
  squared error of A. Marcos-Morales et al., ICML 2023, for two images),
- the added power ⟨d²⟩ − C²/S − ⟨d·m⟩²/N: what follows neither from the signal nor from the noise by a filter.

An estimate that is no surer than it may be has ⟨d²⟩ = C (it is orthogonal to its own error); ⟨d²⟩ > C tells of more
than the data bear out. A filter adds nothing; a network that shows some particles and not others is no filter, so that
the added power bounds what is invented from above.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emflow.denoise.noise import deviation_of, draw_noise, noise_spectrum
from emflow.denoise.scale import Scale, to_scale
from emflow.denoise.train import SPLIT
from emflow.em.optics import rfft_frequencies
from emflow.nn.tiles import run_tiled
from emflow.nn.unet import UNet

LONGEST_ANGSTROM = 300.0
"""Beyond, the local mean that is taken away leaves little."""
BANDS = 24
_TAPER = 1 / 16
"""Of each side, over which images fall to 0, so that borders leave no streaks."""
_SURE = 3.0
"""Standard errors from which on there is a signal in a band."""


@dataclass(frozen=True)
class Pair:
    """Two images of one scene, at the working scale; the first is denoised, the second bears witness."""

    seen: Tensor
    witness: Tensor
    pixel_angstrom: float
    unit: float = 1.0
    """Deviation that the first image has to be divided by before it is denoised."""


@dataclass(frozen=True)
class Spectra:
    """Sums over the Fourier components of each band, (BANDS,); sums of several images add up."""

    components: np.ndarray
    signal: np.ndarray
    seen: np.ndarray
    witness: np.ndarray
    denoised: np.ndarray
    borne_out: np.ndarray
    with_seen: np.ndarray
    """Of the denoised image with the one that it was made from."""

    def __add__(self, other: Spectra) -> Spectra:
        return Spectra(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def has_signal(self) -> np.ndarray:
        """Bands in which the two images share a signal beyond chance."""
        count = self.components.clip(1)
        return self.signal > _SURE * np.sqrt(self.seen * self.witness / (2 * count))

    def correlation_raw(self) -> np.ndarray:
        """Fourier ring correlation of the raw image with the signal; NaN where there is none."""
        return np.where(self.has_signal(), np.sqrt(self.signal.clip(0) / self.seen.clip(1e-30)), np.nan)

    def correlation_denoised(self) -> np.ndarray:
        """Fourier ring correlation of the denoised image with the signal; NaN where there is none."""
        norm = np.sqrt((self.denoised * self.signal.clip(0)).clip(1e-30))
        return np.where(self.has_signal(), self.borne_out / norm, np.nan)

    def added(self) -> np.ndarray:
        """Power that no filter of the image gives."""
        noise = (self.seen - self.signal).clip(1e-30)
        passed = (self.with_seen - self.borne_out) ** 2 / noise
        sure = self.has_signal()
        kept = np.where(sure, self.borne_out**2 / np.where(sure, self.signal, 1.0), self.borne_out)
        return self.denoised - kept - passed

    def borne_out_fraction(self) -> tuple[float, float]:
        """Part of the denoised power that the other image bears out, and its standard error; NaN of nothing."""
        power = float(self.denoised.sum())
        error = np.sqrt((self.denoised * self.witness / (2 * self.components.clip(1))).sum())
        if power <= 1e-6 * float(self.seen.sum()):
            return float("nan"), float("nan")
        return float(self.borne_out.sum()) / power, float(error) / power

    def snr_db(self) -> tuple[float | None, float | None]:
        """Unsupervised SNR of the raw and of the denoised image, in decibel; None where it cannot be told."""
        signal, seen = float(self.signal.sum()), float(self.seen.sum())
        error = float((self.denoised - 2 * self.borne_out).sum()) + signal
        chance = np.sqrt((self.seen * self.witness / (2 * self.components.clip(1))).sum())
        if signal < _SURE * chance or seen <= signal or error <= 0:
            return None, None
        return 10 * float(np.log10(signal / (seen - signal))), 10 * float(np.log10(signal / error))


def band_edges(scale: Scale) -> np.ndarray:
    """Edges of the bands, (BANDS + 1,), in 1/Å."""
    return np.linspace(1 / LONGEST_ANGSTROM, 0.5 / scale.pixel_angstrom, BANDS + 1)


def pairs_of_halves(even: Tensor, odd: Tensor, pixel_angstrom: float, scale: Scale) -> Iterator[Pair]:
    """Half sums, each denoised once."""
    first, second = (to_scale(image, pixel_angstrom, scale) for image in (even, odd))
    yield Pair(first.z, second.z, first.pixel_angstrom)
    yield Pair(second.z, first.z, first.pixel_angstrom)


def can_interleave(pixel_angstrom: float, scale: Scale) -> bool:
    """Whether pixels are so fine that every other one shows all that the working scale does."""
    return pixel_angstrom <= 0.5 * scale.pixel_angstrom


def interleaved(image: Tensor) -> tuple[Tensor, Tensor]:
    """Divide an image (H, W) as a chessboard is; pixels of the other colour are means of their neighbours.

    What a camera counts in one pixel is independent of the next, as far as its response is sharp (the single-image
    ring correlation of S. Koho et al., Nat. Commun. 10 (2019) 3103, divides an image in the same way).
    """
    padded = torch.nn.functional.pad(image[None, None], (1, 1, 1, 1), mode="reflect")[0, 0]
    mean = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
    y, x = (torch.arange(n, device=image.device) for n in image.shape)
    black = (y[:, None] + x) % 2 == 0
    return torch.where(black, image, mean), torch.where(black, mean, image)


def pairs_of_split(
    image: Tensor, pixel_angstrom: float, scale: Scale, rng: torch.Generator
) -> Iterator[Pair]:
    """Noise of the image's spectrum added here and taken away there; independent where its own is Gaussian."""
    scaled = to_scale(image, pixel_angstrom, scale)
    spectrum = noise_spectrum(scaled.z)
    unit = (1 + (SPLIT * deviation_of(spectrum)) ** 2) ** 0.5
    for _ in range(2):
        noise = draw_noise(spectrum, (scaled.z.shape[0], scaled.z.shape[1]), rng).to(scaled.z)
        yield Pair(scaled.z + SPLIT * noise, scaled.z - noise / SPLIT, scaled.pixel_angstrom, unit)


@torch.no_grad()
def denoised_of(pair: Pair, network: UNet, tile_px: int, bright: bool) -> Tensor:
    """Denoise a pair's first image, (h, w) in its units."""
    sign = -1.0 if bright else 1.0
    return sign * pair.unit * run_tiled(network, sign * pair.seen / pair.unit, tile_px)


def spectra_of(pair: Pair, network: UNet, scale: Scale, tile_px: int, bright: bool) -> Spectra:
    """Denoise a pair's first image and compare the three."""
    denoised = denoised_of(pair, network, tile_px, bright)
    return compared(pair.seen, pair.witness, denoised, pair.pixel_angstrom, scale)


def compared(seen: Tensor, witness: Tensor, denoised: Tensor, pixel_angstrom: float, scale: Scale) -> Spectra:
    """Sums over bands of the powers and cross powers of three images (h, w)."""
    height, width = seen.shape
    window = _taper(height).to(seen)[:, None] * _taper(width).to(seen)
    x, y, d = (torch.fft.rfft2(window * (i - i.mean()), norm="ortho") for i in (seen, witness, denoised))
    fy, fx = rfft_frequencies((height, width), pixel_angstrom, seen.device)
    edges = torch.from_numpy(band_edges(scale)).to(seen)
    band = torch.bucketize(torch.hypot(fy.to(seen), fx.to(seen)), edges).flatten()

    def summed(values: Tensor) -> np.ndarray:
        total = torch.zeros(BANDS + 2, dtype=torch.float64)
        return total.index_add(0, band.cpu(), values.flatten().double().cpu())[1:-1].numpy()

    products = ((x, y), (x, x), (y, y), (d, d), (d, y), (d, x))
    sums = [summed((a * b.conj()).real) for a, b in products]
    return Spectra(summed(torch.ones_like(x.real)), *sums)


def _taper(size: int) -> Tensor:
    edge = (torch.arange(size) + 0.5) / (_TAPER * size)
    return 0.5 - 0.5 * torch.cos(torch.pi * torch.minimum(edge, edge.flip(0)).clamp(max=1))

"""Make micrographs with known truth, one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.optics import Ctf, wavelength_angstrom
from emflow.simulate.bodies import Bodies
from emflow.simulate.config import SimulateSession
from emflow.simulate.contamination import contaminate
from emflow.simulate.ensemble import Conformations
from emflow.simulate.ice import ice_texture
from emflow.simulate.imaging import draw_ctf, interaction, transfer
from emflow.simulate.project import draw_rotations
from emflow.simulate.scene import add_images, carbon_thickness, lay_out, smooth_noise

_CARBON_TO_ICE = 3.0  # amplitude of carbon's phase noise over the ice's
_BACKGROUND = 0.05  # deviation of the background's logarithm: ice thickness
_CARBON_MEAN = 0.86  # transmission of carbon at zero frequency
_CALIBRATION = 128  # projections from which the noise level is set


@dataclass(frozen=True)
class Imaging:
    """What all micrographs share: optics, noise, and the box of the SNR."""

    pixel_size_angstrom: float
    diameter_angstrom: float
    box_px: int
    counts: float
    """Mean electrons per pixel that give the camera's noise by counting alone."""
    ice_amplitude: float
    """Deviation of the ice's phase noise per pixel, in radian."""


@dataclass(frozen=True)
class Micrograph:
    """One simulated micrograph with its truth."""

    name: str
    even: Tensor
    odd: Tensor
    clean: Tensor
    """The noise-free image (no camera noise, no ice), in counts."""
    mask: Tensor
    """1 where carbon or an aggregate lies, float32."""
    ctf: Ctf
    coordinates: Tensor
    """Particle centres x, y in pixels, (N, 2)."""
    rotations: Tensor
    """(N, 3, 3), r_image = A r."""
    conformations: Conformations
    """Of the N particles."""
    broken: Tensor
    """Kind of break of each, (N,), 0 for none."""
    carbon: bool
    contaminated: bool | None
    """Whether crystals or beads lie on it; None where none were asked for."""
    snr: float | None
    """Measured signal-to-noise ratio of its particles; see :func:`measure_snr`."""


def calibrate(
    cfg: SimulateSession, bodies: Bodies, diameter_angstrom: float, pixel: float, device: torch.device
) -> Imaging:
    """Set the noise from the settings' SNR, over random views and the session's own defoci."""
    box = bodies.box
    total = cfg.n_micrographs + cfg.n_noise_micrographs
    rotations = draw_rotations(_CALIBRATION, cfg.view_preference, generator(cfg.seed, 13)).to(device)
    conformations = bodies.ensemble.draw(_CALIBRATION, generator(cfg.seed, 14))
    shifts = torch.zeros(_CALIBRATION, 2, device=device)
    images = torch.fft.rfft2(bodies.project(rotations, shifts, conformations))
    images = images * interaction(cfg.voltage_kv)
    chosen = torch.linspace(0, max(total - 1, 0), min(max(total, 1), 16)).long().tolist()
    signal, ice = 0.0, 0.0
    for index in chosen if total else []:
        h = transfer(cfg, draw_ctf(cfg, index, total), box, pixel, device)[0]
        signal += float(torch.fft.irfft2(images * h, s=(box, box)).var(dim=(-2, -1)).mean()) / len(chosen)
        spectrum = transfer(cfg, draw_ctf(cfg, index, total), 256, pixel, device)[0] ** 2
        ice += float(spectrum.mean()) / len(chosen)
    noise = signal / cfg.snr if total else 1.0
    counts = 1 / ((1 - cfg.ice_noise) * noise)
    return Imaging(pixel, diameter_angstrom, box, counts, math.sqrt(cfg.ice_noise * noise / max(ice, 1e-12)))


def carbon_indices(cfg: SimulateSession) -> set[int]:
    """Which micrographs have a carbon edge: spread evenly."""
    number = min(cfg.n_carbon_micrographs, cfg.n_micrographs)
    return {int((i + 0.5) * cfg.n_micrographs / number) for i in range(number)}


def simulate_micrographs(
    cfg: SimulateSession, bodies: Bodies, imaging: Imaging, device: torch.device
) -> Iterator[Micrograph]:
    """Yield the session's micrographs one by one, the noise-only ones last; memory is that of one."""
    for index in range(cfg.n_micrographs + cfg.n_noise_micrographs):
        yield _micrograph(cfg, bodies, imaging, index, device)


def _margin(cfg: SimulateSession, imaging: Imaging, ctf: Ctf) -> int:
    """Pixels of the scene beyond each border: boxes reach over it, and the CTF spreads a point by λ·Δf·s."""
    defocus = float(ctf.defocus_u_um.abs().max()) * 1e4
    spread = wavelength_angstrom(cfg.voltage_kv) * defocus / (2 * imaging.pixel_size_angstrom**2)
    margin = max(imaging.box_px, math.ceil(spread + 16))
    return margin + -(cfg.micrograph_size_px + 2 * margin) % 16 // 2


def _micrograph(
    cfg: SimulateSession, bodies: Bodies, imaging: Imaging, index: int, device: torch.device
) -> Micrograph:
    rng = generator(cfg.seed, 20, index)
    size, box, pixel = cfg.micrograph_size_px, imaging.box_px, imaging.pixel_size_angstrom
    has_particles, has_carbon = index < cfg.n_micrographs, index in carbon_indices(cfg)
    ctf = draw_ctf(cfg, index, cfg.n_micrographs + cfg.n_noise_micrographs)
    margin = _margin(cfg, imaging, ctf)
    wide = size + 2 * margin
    carbon = carbon_thickness(size, margin, rng) if has_carbon else torch.zeros(wide, wide)
    inner = (slice(margin, margin + size),) * 2
    many = has_particles * (wide / size) ** 2
    crystals, beads = cfg.ice_crystals_per_micrograph * many, cfg.gold_beads_per_micrograph * many
    dirt = contaminate(wide, pixel, crystals, beads, generator(cfg.seed, 22, index))
    blocked = carbon[inner] > 0.05
    layout = lay_out(
        blocked if dirt is None else blocked | dirt.mask[inner],
        imaging.diameter_angstrom / pixel,
        cfg.min_distance,
        cfg.particles_per_micrograph * has_particles,
        cfg.aggregates_per_micrograph * has_particles,
        rng,
    )
    everything = torch.cat([layout.particles, layout.clumped])
    rotations = draw_rotations(len(everything), cfg.view_preference, rng)
    # a generator of their own: with and without variation the scene is the same
    conformations = bodies.ensemble.draw(len(everything), generator(cfg.seed, 21, index))
    nearest = everything.round()
    images = bodies.project(rotations.to(device), (everything - nearest).to(device), conformations)
    images = images * interaction(cfg.voltage_kv)
    phase = torch.zeros(wide, wide) if dirt is None else dirt.phase
    phase = phase.to(device)
    add_images(phase, images, nearest.long() + margin - box // 2)
    h = transfer(cfg, ctf, wide, pixel, device)[0]
    background = torch.exp(_BACKGROUND * smooth_noise((wide, wide), 0.35 * wide, rng))
    background = background * (1 - (1 - _CARBON_MEAN) * carbon)
    if dirt is not None:
        background = background * dirt.transmission
    grain = imaging.ice_amplitude * torch.hypot(torch.ones(()), _CARBON_TO_ICE * carbon)
    ice = ice_texture(cfg.ice_texture, wide, pixel, rng)
    if cfg.ice_texture != "white":  # as much is to pass the CTF as of white ice
        passed = torch.fft.irfft2(torch.fft.rfft2(ice.to(device)) * h, s=(wide, wide)).std()
        ice = ice * float(h.square().mean().sqrt() / passed)
    texture = (grain * ice).to(device)

    def image(scene: Tensor) -> Tensor:
        contrast = torch.fft.irfft2(torch.fft.rfft2(scene) * h, s=(wide, wide)).cpu()
        counts = imaging.counts * background * (1 + contrast)
        return counts[inner]

    clean, mean = image(phase), image(phase + texture)
    deviation = (0.5 * mean).clamp(min=0).sqrt()  # of the counts in each half
    even = 0.5 * mean + deviation * torch.randn(size, size, generator=rng)
    odd = 0.5 * mean + deviation * torch.randn(size, size, generator=rng)
    contaminated = None
    if cfg.ice_crystals_per_micrograph or cfg.gold_beads_per_micrograph:
        contaminated = dirt is not None and bool(dirt.mask[inner].any())
    n = len(layout.particles)
    intact = (conformations.state[:n] >= 0).to(device)
    noise = (even + odd - clean)[layout.junk == 0]
    snr = measure_snr(images[:n][intact] * imaging.counts, transfer(cfg, ctf, box, pixel, device)[0], noise)
    name = f"sim_{index + 1:05d}"
    return Micrograph(
        name, even, odd, clean, layout.junk, ctf, layout.particles, rotations[:n], conformations[:n],
        bodies.ensemble.kinds(conformations[:n]), has_carbon, contaminated, snr,
    )  # fmt: skip


def measure_snr(images: Tensor, transfer_function: Tensor, noise: Tensor) -> float | None:
    """Variance of the particles' CTF-applied projections in their box over the variance of the noise.

    Parameters
    ----------
    images
        Projections (N, b, b) in their boxes, before the CTF.
    noise
        Pixels of the micrograph minus its noise-free image (camera and ice), off carbon and aggregates.

    Returns
    -------
    The ratio, or None where there is no particle or no free ice.
    """
    if len(images) == 0 or len(noise) < 2:
        return None
    signal = torch.fft.irfft2(torch.fft.rfft2(images) * transfer_function, s=images.shape[-2:])
    return float(signal.var(dim=(-2, -1)).mean()) / float(noise.var())

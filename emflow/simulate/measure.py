"""Measure the signal-to-noise ratio of simulated particles, rather than assume it."""

from __future__ import annotations

import torch

from emflow.simulate.config import SimulateSession
from emflow.simulate.project import Projector
from emflow.simulate.session import Imaging, Micrograph, interaction, transfer


def measured_snr(
    cfg: SimulateSession,
    projector: Projector,
    imaging: Imaging,
    micrograph: Micrograph,
    device: torch.device,
) -> float | None:
    """Variance of the particles' CTF-applied projections in their box over the variance of the noise.

    The noise is the micrograph minus its noise-free image (camera and ice), off carbon and aggregates.
    None where there is no particle.
    """
    if not len(micrograph.coordinates):
        return None
    shift = (micrograph.coordinates - micrograph.coordinates.round()).to(device)
    images = projector(micrograph.rotations.to(device), shift) * interaction(cfg.voltage_kv) * imaging.counts
    h = transfer(cfg, micrograph.ctf, imaging.box_px, imaging.pixel_size_angstrom, device)
    images = torch.fft.irfft2(torch.fft.rfft2(images) * h, s=(imaging.box_px, imaging.box_px))
    noise = (micrograph.total - micrograph.clean)[micrograph.mask == 0]
    return float(images.var(dim=(-2, -1)).mean() / noise.var())

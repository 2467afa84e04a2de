"""References for picking: projections of a map or turned class averages, as the microscope shows them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from emflow.em.grids import orientation_grid
from emflow.em.optics import Ctf, ctf_values, rfft_frequencies
from emflow.em.poses import euler_to_matrix


def projections(
    volume: Tensor, voxel_angstrom: float, pixel_angstrom: float, side: int, spacing_deg: float
) -> Tensor:
    """Projections of a map (z, y, x) in all orientations at a spacing, at a pixel size: (n, side, side), side odd."""
    rotations = orientation_grid(spacing_deg)
    axis = (torch.arange(side, dtype=torch.float32) - side // 2) * pixel_angstrom / voxel_angstrom
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], -1).reshape(-1, 3)
    size = torch.tensor(volume.shape[::-1], dtype=torch.float32)
    stacked = _band_limited(volume, pixel_angstrom / voxel_angstrom)[None, None]
    views = []
    for part in rotations.split(4):
        # r_image = A·r_object: the object's point behind an image's is Aᵀ·r = r·A in rows
        at = (points @ part + torch.floor(size / 2)) * 2 / (size - 1) - 1
        sampled = functional.grid_sample(
            stacked.expand(len(part), -1, -1, -1, -1),
            at.reshape(len(part), side, side, side, 3),
            align_corners=True,
        )
        views.append(sampled[:, 0].sum(1))
    return torch.cat(views)


def turned_averages(averages: Tensor, scale: float, side: int, step_deg: float) -> Tensor:
    """Class averages (n, b, b), resampled by pixels of theirs to one of ours and turned: (n·turns, side, side)."""
    turns = torch.arange(0, 360, step_deg)
    zeros = torch.zeros_like(turns)
    rotations = euler_to_matrix(torch.stack([zeros, zeros, turns], 1))[:, :2, :2].float()
    axis = (torch.arange(side, dtype=torch.float32) - side // 2) * scale
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    box = averages.shape[-1]
    at = (torch.stack([x, y], -1).reshape(-1, 2) @ rotations + box // 2) * 2 / (box - 1) - 1
    grid = at.reshape(len(turns), side, side, 2)
    smooth = torch.stack([_band_limited(average, scale) for average in averages])
    views = [
        functional.grid_sample(image[None, None].expand(len(turns), -1, -1, -1), grid, align_corners=True)[
            :, 0
        ]
        for image in smooth
    ]
    return torch.cat(views)


def _band_limited(image: Tensor, scale: float) -> Tensor:
    """Cut off what a pixel larger by ``scale`` cannot hold."""
    if scale <= 1:
        return image.float()
    radius = sum(f**2 for f in torch.meshgrid(*[torch.fft.fftfreq(n) for n in image.shape], indexing="ij"))
    keep = torch.as_tensor(radius) <= (0.5 / scale) ** 2
    return torch.fft.ifftn(torch.fft.fftn(image.float()) * keep).real


def with_ctf(templates: Tensor, ctf: Ctf, pixel_angstrom: float) -> Tensor:
    """Templates (n, k, k) as the microscope shows them, protein bright; ``ctf`` of one image."""
    side = templates.shape[-1]
    padded = functional.pad(templates, (side // 2,) * 4)
    shape = (padded.shape[-2], padded.shape[-1])
    fy, fx = rfft_frequencies(shape, pixel_angstrom)
    seen = torch.fft.irfft2(torch.fft.rfft2(padded) * ctf_values(ctf, fy, fx), s=shape)
    return seen[..., side // 2 : side // 2 + side, side // 2 : side // 2 + side]

"""What lies where on a micrograph: carbon, aggregates, particles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree
from torch import Tensor

_TRIES = 60


@dataclass(frozen=True)
class Clump:
    """An aggregate: centre and radius in pixels, and the positions (M, 2) x, y of its particles."""

    centre: Tensor
    radius_px: float
    members: Tensor


@dataclass(frozen=True)
class Layout:
    """What lies where on one micrograph."""

    junk: Tensor
    """1 on carbon and aggregates, (size, size), float32."""
    particles: Tensor
    """Centres (N, 2) x, y of the free particles, in pixels."""
    clumped: Tensor
    """Centres (M, 2) of those in aggregates."""


def lay_out(
    carbon: Tensor,
    diameter_px: float,
    min_distance: float,
    particles: float,
    aggregates: float,
    generator: torch.Generator,
) -> Layout:
    """Place aggregates, then particles where there is room.

    Parameters
    ----------
    carbon
        Where the carbon is, boolean (size, size).
    min_distance
        Between two free particles, in diameters.
    particles
        Their number on an empty micrograph; in proportion fewer where junk takes the room.
    aggregates
        Their mean number.
    """
    size = carbon.shape[-1]
    edge = min(math.ceil(0.5 * diameter_px), size // 2 - 1)
    clumps = clump_particles(size, edge, diameter_px, generator, aggregates)
    junk = torch.maximum(carbon.float(), disc_mask(size, clumps))
    clear = junk == 0
    near = torch.zeros_like(clear)
    if not bool(clear.all()):  # particles keep off junk by half a diameter
        near = torch.from_numpy(distance_transform_edt(clear.numpy()) < edge)
    number = round(particles * min(1.0, 1.05 * (1 - float(near.float().mean()))))
    centres = place_particles(near, number, min_distance * diameter_px, edge, generator)
    return Layout(junk, centres, torch.cat([torch.zeros(0, 2), *(clump.members for clump in clumps)]))


def smooth_noise(shape: tuple[int, int], length_px: float, generator: torch.Generator) -> Tensor:
    """Gaussian random field of deviation 1 with a correlation length, on a torus."""
    field = torch.fft.rfft2(torch.randn(*shape, generator=generator))
    fy, fx = torch.fft.fftfreq(shape[0])[:, None], torch.fft.rfftfreq(shape[1])[None]
    field = torch.fft.irfft2(field * torch.exp(-2 * (math.pi * length_px) ** 2 * (fy**2 + fx**2)), s=shape)
    return (field - field.mean()) / field.std()


def carbon_thickness(size: int, margin: int, generator: torch.Generator) -> Tensor:
    """Thickness of a carbon film (0 in the hole, 1 on the film) that covers 15–35 % of the image.

    The edge is an arc of a large hole, a little rough, about four pixels soft. Shape (wide, wide), the image
    and a margin on each side.
    """
    cover, turn = torch.rand(2, generator=generator).tolist()
    wide = size + 2 * margin
    grid = torch.arange(wide) - wide / 2
    centre = 1.3 * size * torch.tensor([math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)])
    distance = torch.hypot(grid[None] + centre[0], grid[:, None] + centre[1])
    distance = distance + 2.5 * smooth_noise((wide, wide), 12, generator)
    inner = distance[margin : margin + size, margin : margin + size].flatten()
    edge = inner.kthvalue(int(inner.numel() * (1 - 0.15 - 0.2 * cover))).values
    return torch.sigmoid((distance - edge) / 2.0)


def clump_particles(
    size: int, edge: int, diameter_px: float, generator: torch.Generator, mean_number: float
) -> list[Clump]:
    """Aggregates: a Poisson number of clumps of 8–24 particles, far closer than free ones."""
    number = int(torch.poisson(torch.tensor([mean_number]), generator=generator))
    clumps = []
    for _ in range(number):
        members = int(torch.randint(8, 25, (1,), generator=generator))
        centre = edge + torch.rand(2, generator=generator) * (size - 2 * edge)
        spread = 0.22 * diameter_px * math.sqrt(members)
        offset = torch.randn(members, 2, generator=generator) * spread * 0.6
        clumps.append(Clump(centre, float(offset.norm(dim=1).max()) + 0.5 * diameter_px, centre + offset))
    return clumps


def disc_mask(size: int, clumps: list[Clump]) -> Tensor:
    """1 within the clumps' radii, else 0: shape (size, size)."""
    grid = torch.arange(size, dtype=torch.float32)
    mask = torch.zeros(size, size)
    for clump in clumps:
        distance = torch.hypot(grid[None] - clump.centre[0], grid[:, None] - clump.centre[1])
        mask = torch.maximum(mask, (distance <= clump.radius_px).float())
    return mask


def place_particles(
    blocked: Tensor, number: int, distance_px: float, edge: int, generator: torch.Generator
) -> Tensor:
    """Drop discs at random where nothing blocks them: (M, 2) x, y in pixels, M ≤ number.

    ``blocked`` is boolean, (size, size). Centres stay ``edge`` pixels off the border and ``distance_px`` apart.
    """
    size = blocked.shape[-1]
    tries = torch.rand(max(_TRIES * number, 1), 2, generator=generator) * (size - 1 - 2 * edge) + edge
    at = tries.round().long()
    free = tries[~blocked[at[:, 1], at[:, 0]]]
    tree = KDTree(free.numpy()) if len(free) else None
    taken = torch.zeros(len(free), dtype=torch.bool)
    kept: list[int] = []
    for i in range(len(free)):
        if len(kept) == number or tree is None:
            break
        if not taken[i]:
            kept.append(i)
            taken[tree.query_ball_point(free[i].numpy(), distance_px)] = True
    return free[kept]


def add_images(canvas: Tensor, images: Tensor, corners: Tensor) -> None:
    """Add images (N, b, b) to a canvas in place, their first pixels at corners (N, 2) x, y; what sticks out is cut."""
    box = images.shape[-1]
    for image, (x, y) in zip(images, corners.tolist(), strict=True):
        left, top = max(-x, 0), max(-y, 0)
        part = canvas[y + top : max(y + box, 0), x + left : max(x + box, 0)]
        part += image[top : top + part.shape[0], left : left + part.shape[1]]

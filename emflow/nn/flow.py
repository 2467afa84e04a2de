"""Follow a learned flow from noise to a sample in few steps."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps places (N, …), what is told, and angles (N,) to velocities like the places."""


def follow(velocity: Velocity, noise: Tensor, told: Tensor, evaluations: int) -> Tensor:
    """Follow a flow from noise to texture in equal steps of the angle θ from 0 to π/2; without a step it stays noise.

    The path between noise n and texture r is n·cos θ + r·sin θ (M. Albergo & E. Vanden-Eijnden, ICLR 2023). Where the
    noise already has the texture's covariance the velocity is small, so that few steps lose no power; it vanishes at
    both ends, which makes equal steps the trapezoidal rule.

    Parameters
    ----------
    velocity
        A network, or what maps as it does; it has learned r·cos θ − n·sin θ.
    noise
        Of deviation 1, (N, …).
    told
        What the velocity is told at every step.

    Returns
    -------
    The same shape.
    """
    step = math.pi / 2 / max(evaluations, 1)
    for number in range(evaluations):
        angle = torch.full((len(noise),), number * step, device=noise.device)
        noise = noise + step * velocity(noise, told, angle)
    return noise

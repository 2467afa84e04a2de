"""Particle images weighted for the likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from emflow.em.images import ImageSet, weigh
from emflow.em.search import WeightedImages
from emflow.em.slices import HalfPlane


def load_weighted(images: ImageSet, rows: Tensor, plane: HalfPlane, noise: Tensor) -> WeightedImages:
    """All of some images in memory: for the low bands of a first map."""
    data = torch.empty(len(rows), 2, len(plane), device=images.device)
    power = torch.empty(len(rows), len(plane), device=images.device)
    at = 0
    for part, transforms, ctf in images.batches(rows, plane):
        weighted = weigh(transforms, ctf, noise, images.group[part], plane)
        data[at : at + len(part)], power[at : at + len(part)] = weighted.data, weighted.power
        at += len(part)
    return WeightedImages(data, power)

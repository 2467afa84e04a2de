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

    def keep(place: slice, part: Tensor, transforms: Tensor, ctf: Tensor) -> None:
        weighted = weigh(transforms, ctf, noise, images.group[part], plane)
        data[place], power[place] = weighted.data, weighted.power

    images.each(rows, plane, keep, "images of a first map")
    return WeightedImages(data, power)

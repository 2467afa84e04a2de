"""Images, pairs and models that the vem room's verbs for images read."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from scipy.ndimage import zoom

from emflow.io.pictures import Picture, list_pictures
from emflow.nn.weights import Model, read_kind
from emflow.step import EmflowError
from emflow.vem.denoiser import KIND, Denoiser, FoldedUNet

GENERAL = Path(__file__).parent / "weights" / "images.safetensors"
"""The model for images that emflow ships."""
Item = TypeVar("Item")
_ALIKE = 0.2
"""Sides of a pair may differ by this part: fields need not be cut alike."""
_SMALLEST = 64


def list_pairs(noisy: Path, clean: Path) -> list[tuple[Picture, Picture]]:
    """List pairs: an image each, or two folders or stacks in one order.

    Raises
    ------
    EmflowError
        If their numbers differ.
    """
    both = list_pictures(noisy), list_pictures(clean)
    if len(both[0]) != len(both[1]):
        raise EmflowError(
            f"{noisy}: {len(both[0])} images, {clean}: {len(both[1])}; expected as many, in the same order."
        )
    return list(zip(*both, strict=True))


def spread_over(found: list[Item], most: int) -> list[Item]:
    """Take at most so many, evenly over the list."""
    return found if len(found) <= most else [found[i * len(found) // most] for i in range(most)]


def factor_between(noisy: np.ndarray, clean: np.ndarray, where: Path) -> int:
    """Return how many pixels of the clean image lie along each of the noisy one's, as their sizes tell.

    Raises
    ------
    EmflowError
        If that is no whole number from 1 to 4.
    """
    ratios = [b / a for a, b in zip(noisy.shape, clean.shape, strict=True)]
    factor = max(1, round(sum(ratios) / 2))
    if factor > 4 or any(abs(ratio / factor - 1) > _ALIKE for ratio in ratios):
        raise EmflowError(
            f"{where}: {noisy.shape[0]} × {noisy.shape[1]} pixels, and {clean.shape[0]} × {clean.shape[1]} of the clean "
            "image; expected the same size, or 2 to 4 times as many a side. Cut both to one field, or set factor."
        )
    return factor


def enlarged(image: np.ndarray, factor: int) -> np.ndarray:
    """Return an image with so many pixels for each along both sides, by cubic splines; float32."""
    image = image.astype(np.float32)
    if factor == 1:
        return image
    return np.asarray(zoom(image, factor, order=3, mode="nearest", grid_mode=True), dtype=np.float32)


def read_large(picture: Picture) -> np.ndarray:
    """Read an image that is large enough to learn from.

    Raises
    ------
    EmflowError
        If it is too small, or constant.
    """
    image = picture.read()
    if min(image.shape) < _SMALLEST:
        raise EmflowError(
            f"{picture.path}: {image.shape[0]} × {image.shape[1]} pixels; expected {_SMALLEST} a side."
        )
    if image.min() == image.max():
        raise EmflowError(f"{picture.path}: {picture.name} is constant; there is nothing to learn from.")
    return image


def read_network(weights: Path | None, device: torch.device) -> tuple[FoldedUNet, Model]:
    """Read a network, or the shipped one, in evaluation mode.

    Raises
    ------
    EmflowError
        If files are missing, changed, or another network's.
    """
    model = read_kind(weights or GENERAL, KIND, "vem train-images")
    network = FoldedUNet([int(n) for n in model.network["widths"]])
    network.load_state_dict(model.state)
    return network.to(device).eval().requires_grad_(False), model


def read_denoiser(weights: Path | None, device: torch.device) -> tuple[Denoiser, Model]:
    """Read a denoiser; the shipped one knows no intensities, and is for those of deviation 1 about 0."""
    network, model = read_network(weights, device)
    facts = model.facts
    if "mean" not in facts:
        return Denoiser(network, 0.0, 1.0, quantile=float(facts["quantile"])), model
    mean, deviation, gain, offset, quantile, noise = (
        float(facts[name]) for name in ("mean", "deviation", "gain", "offset", "quantile", "noise")
    )
    factor = int(facts["factor"])
    return Denoiser(network, mean, deviation, gain, offset, quantile, noise, factor), model

"""Labelled slices, membrane models and labels that the segmentation's verbs read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emflow.io.volume import Volume, open_volume
from emflow.nn.unet import on_device
from emflow.nn.weights import Model, read_kind
from emflow.step import EmflowError
from emflow.vem.inputs import as_float, middle_of, read_middle
from emflow.vem.membrane import MembraneNetwork, build, targets
from emflow.vem.watershed import Cut

KIND = "membranes"
_WIDEST = 384
"""Voxels of the plane that is shown along each axis, at most."""
_SLICES, _SIDE_PX = 32, 1024
"""The middle of a volume that its mean and deviation are of."""


@dataclass(frozen=True)
class Labelled:
    """Labelled slices, in units of their deviation about their mean."""

    images: list[Tensor]
    labels: list[Tensor]
    """Segments, 0 for membrane."""
    mean: float
    deviation: float


def read_labelled(images: Path, labels: Path, max_slices: int, max_side_px: int) -> Labelled:
    """Read the slices that are labelled: those with a label that is not 0.

    Raises
    ------
    EmflowError
        If shapes differ, labels are no whole numbers, nothing or everything is membrane, or the images are constant.
    """
    pixels, told = open_volume(images), open_volume(labels)
    if pixels.shape != told.shape:
        raise EmflowError(f"{images}: shape {pixels.shape}, {labels}: {told.shape}; expected one shape.")
    _whole_numbers(told)
    every = middle_of(told.shape[1], max_side_px), middle_of(told.shape[2], max_side_px)
    marked = [z for z in range(told.shape[0]) if told.read((slice(z, z + 1), *every)).any()]
    if not marked:
        raise EmflowError(
            f"{labels}: all labels are 0, which is membrane; expected segments (or 255) between membranes."
        )
    if len(marked) > max_slices:
        marked = [marked[i] for i in np.linspace(0, len(marked) - 1, max_slices).round().astype(int)]
    raw = [as_float(pixels.read((slice(z, z + 1), *every))[0], images) for z in marked]
    found = [targets(told.read((slice(z, z + 1), *every))[0]) for z in marked]
    if all(segments.all() for segments in found):
        raise EmflowError(f"{labels}: no membrane in it: expected pixels of 0, or segments that touch.")
    mean = float(np.mean([image.mean() for image in raw]))
    deviation = float(np.sqrt(np.mean([np.square(image - mean).mean() for image in raw])))
    if deviation == 0:
        raise EmflowError(f"{images}: its labelled slices are constant; there is nothing to learn from.")
    return Labelled(
        [torch.from_numpy((image - mean) / deviation) for image in raw],
        [torch.from_numpy(segments) for segments in found],
        mean,
        deviation,
    )


def _whole_numbers(volume: Volume) -> None:
    if volume.dtype.kind not in "uib":
        raise EmflowError(f"{volume.path}: holds {volume.dtype}; expected labels, which are whole numbers.")


def statistics_of(volume: Volume) -> tuple[float, float]:
    """Mean and deviation of a volume's middle.

    Raises
    ------
    EmflowError
        If it is constant.
    """
    middle = read_middle(volume, _SLICES, _SIDE_PX)
    mean, deviation = float(middle.mean()), float(middle.std())
    if deviation == 0:
        raise EmflowError(f"{volume.path}: its middle is constant; there is nothing to segment.")
    return mean, deviation


def read_membranes(weights: Path, device: torch.device) -> tuple[MembraneNetwork, Cut, Model]:
    """Read a trained model, and where to cut its probability.

    Raises
    ------
    EmflowError
        If the weights are damaged or another network's.
    """
    model = read_kind(weights, KIND, "vem train-membranes")
    network = build(bool(model.network["affinities"]))
    network.load_state_dict(model.state)
    facts: dict[str, Any] = model.facts
    made = MembraneNetwork(
        on_device(network.eval(), device), float(facts["slope"]), float(facts["offset"]), bool(facts["turns"])
    )
    return made, Cut(**facts["cut"]), model


def open_labels(path: Path) -> Volume:
    """Open a volume of labels; of an OME-Zarr image that holds segments, those.

    Raises
    ------
    EmflowError
        If it holds no whole numbers.
    """
    within = path / "labels" / "segments"
    volume = open_volume(within if within.is_dir() else path)
    _whole_numbers(volume)
    return volume


def read_segments(volume: Volume, out: Path) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Read intensities and segments of the xz plane through the middle, as far as it can be shown, and its voxel."""
    z, x = (middle_of(volume.shape[axis], _WIDEST) for axis in (0, 2))
    y = volume.shape[1] // 2
    at = z, slice(y, y + 1), x
    found = open_labels(out)
    assert found.voxel_nm is not None
    plane, segments = volume.read(at)[:, 0].astype(np.float32), found.read(at)[:, 0]
    return plane, segments, (found.voxel_nm[0], found.voxel_nm[2])

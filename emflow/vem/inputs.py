"""Volumes and models that the vem room's verbs read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emflow.io.volume import Volume
from emflow.nn.unet import on_device
from emflow.nn.weights import Model, read_model
from emflow.step import EmflowError
from emflow.vem.config import VoxelSize
from emflow.vem.grid import LARGEST, SMALLEST, TOLERANCE, Grid
from emflow.vem.model import Filler, build

KIND = "gap filler"
DOUBLED = "doubled.safetensors"
"""Beside a filler's weights: those for gaps twice as wide."""


def voxel_of(volume: Volume, cfg: VoxelSize) -> tuple[float, float, float]:
    """Return the voxel (z, y, x) in nanometre: as set, or as the file says.

    Raises
    ------
    EmflowError
        If neither says.
    """
    voxel = cfg.voxel_nm or volume.voxel_nm
    if voxel is None:
        raise EmflowError(
            f"{volume.path}: does not say how far its voxels are apart. Set voxel_nm (z, y, x), in nanometre."
        )
    if min(voxel) <= 0:
        raise EmflowError(f"{volume.path}: voxels {voxel} nm apart; expected three positive numbers.")
    return voxel


def grid_of(volume: Volume, voxel_nm: tuple[float, float, float]) -> Grid:
    """Return how slices lie among isotropic voxels.

    Raises
    ------
    EmflowError
        If they are nearer or further apart than can be restored, or pixels are not square.
    """
    z, y, x = voxel_nm
    if abs(y / x - 1) > 0.02:
        raise EmflowError(f"{volume.path}: pixels of {y:g} × {x:g} nm; expected square ones.")
    ratio = z / x
    if not SMALLEST <= ratio <= LARGEST * (1 + TOLERANCE):
        raise EmflowError(
            f"{volume.path}: slices are {ratio:.2f} pixels apart; expected {SMALLEST:g} to {LARGEST}. Check voxel_nm."
        )
    return Grid.of(ratio)


def as_float(block: np.ndarray, path: Path) -> np.ndarray:
    """Return intensities as float32.

    Raises
    ------
    EmflowError
        If they are not finite, or not numbers of one channel.
    """
    if block.dtype.kind not in "uif":
        raise EmflowError(f"{path}: holds {block.dtype}; expected intensities (integers or floating point).")
    values = block.astype(np.float32)
    if not np.isfinite(values).all():
        raise EmflowError(f"{path}: holds values that are not finite. Replace them before.")
    return values


def read_filler(weights: Path, device: torch.device) -> tuple[Filler, Model]:
    """Read a trained filler.

    Raises
    ------
    EmflowError
        If the weights are damaged or another network's.
    """
    if weights.is_dir():
        weights = weights / "model.safetensors"
    model = read_model(weights)
    if model.network.get("kind") != KIND:
        raise EmflowError(
            f"{weights}: weights of a {model.network.get('kind')}; expected those of a {KIND}, as `emflow vem train` "
            "writes them."
        )
    facts = model.facts
    network = build(int(model.network["factor"]))
    network.load_state_dict(model.state)
    filler = Filler(
        on_device(network.eval(), device),
        int(model.network["factor"]),
        float(facts["mean"]),
        float(facts["deviation"]),
        float(facts["spread"]),
        float(facts["quantile"]),
        facts.get("ratio"),
    )
    return filler, model


def read_doubled(weights: Path, filler: Filler, device: torch.device) -> Filler | None:
    """Read the network for gaps twice as wide that ``vem train`` wrote beside a filler; None where it wrote none."""
    folder = weights if weights.is_dir() else weights.parent
    if not (folder / DOUBLED).exists():
        return None
    doubled, _ = read_filler(folder / DOUBLED, device)
    if doubled.factor != 2 * filler.factor:
        raise EmflowError(
            f"{folder / DOUBLED}: fills gaps of {doubled.factor}; expected {2 * filler.factor}, twice those of the "
            "weights beside it. Take it away, or train anew."
        )
    return doubled


def to_tensor(block: np.ndarray, path: Path, device: torch.device) -> Tensor:
    """Return a block of intensities on the device."""
    return torch.from_numpy(as_float(block, path)).to(device)

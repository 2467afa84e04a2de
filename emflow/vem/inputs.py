"""Volumes and models that the vem room's verbs read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emflow.io.listing import stat_file
from emflow.io.volume import Volume
from emflow.nn.unet import on_device
from emflow.nn.weights import Model, read_model
from emflow.step import EmflowError
from emflow.vem.config import VoxelSize
from emflow.vem.model import Filler, build

KIND = "gap filler"


def identity_of(volume: Volume) -> str:
    """What tells one input from another without reading it: of a folder its own time stands for its files'."""
    found = stat_file(str(volume.path))
    return found.identity if found else f"{volume.path.name} {volume.shape} {volume.path.stat().st_mtime_ns}"


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


def factor_of(volume: Volume, voxel_nm: tuple[float, float, float]) -> int:
    """Return how many times as far slices are apart as pixels.

    Raises
    ------
    EmflowError
        If that is no whole number from 2 to 16, or pixels are not square.
    """
    z, y, x = voxel_nm
    if abs(y / x - 1) > 0.02:
        raise EmflowError(f"{volume.path}: pixels of {y:g} × {x:g} nm; expected square ones.")
    ratio = z / x
    if not 1.98 <= ratio <= 16.3 or abs(ratio / round(ratio) - 1) > 0.02:
        raise EmflowError(
            f"{volume.path}: slices are {ratio:.2f} pixels apart; expected a whole number from 2 to 16 (within 2 %). "
            "Check voxel_nm."
        )
    return round(ratio)


def read_middle(volume: Volume, max_slices: int, max_side_px: int) -> np.ndarray:
    """Read the middle of a volume as float32."""
    most = max_slices, max_side_px, max_side_px
    z, y, x = (middle_of(n, length) for n, length in zip(volume.shape, most, strict=True))
    return as_float(volume.read((z, y, x)), volume.path)


def middle_of(length: int, most: int) -> slice:
    """The middle of an axis, no longer than ``most``."""
    kept = min(length, most)
    return slice((length - kept) // 2, (length - kept) // 2 + kept)


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
    )
    return filler, model


def to_tensor(block: np.ndarray, path: Path, device: torch.device) -> Tensor:
    """Return a block of intensities on the device."""
    return torch.from_numpy(as_float(block, path)).to(device)

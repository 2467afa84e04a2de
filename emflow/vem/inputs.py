"""Volumes and models that the vem room's verbs read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emflow.io.volume import Volume, open_volume
from emflow.nn.unet import UNet, on_device
from emflow.nn.weights import Model, read_kind, read_model
from emflow.step import EmflowError
from emflow.vem.config import VemTrain, VoxelSize
from emflow.vem.crops import Isotropic, isotropic
from emflow.vem.general import state_of
from emflow.vem.grid import LARGEST, SMALLEST, TOLERANCE, Grid
from emflow.vem.model import Filler, build

KIND = "gap filler"
GENERAL_KIND = "general gap filler"
GENERAL = Path(__file__).parent / "weights" / "general.safetensors"
"""The weights that emflow ships."""
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


def read_middle(volume: Volume, max_slices: int, max_side_px: int) -> np.ndarray:
    """Read the middle of a volume as float32."""
    most = max_slices, max_side_px, max_side_px
    z, y, x = (middle_of(n, length) for n, length in zip(volume.shape, most, strict=True))
    return as_float(volume.read((z, y, x)), volume.path)


def read_isotropic(volume: Volume, cfg: VoxelSize, max_side: int) -> np.ndarray:
    """Read the middle of an isotropic volume as float32.

    Raises
    ------
    EmflowError
        If its voxels are not cubes.
    """
    voxel = voxel_of(volume, cfg)
    if max(voxel) > 1.02 * min(voxel):
        raise EmflowError(
            f"{volume.path}: voxels of {voxel[0]:g} × {voxel[1]:g} × {voxel[2]:g} nm; expected cubes (within 2 %)."
        )
    return read_middle(volume, max_side, max_side)


def read_like(path: Path, pixel_nm: float, grid: Grid, cfg: VemTrain) -> Isotropic:
    """Read an isotropic volume with the pixels of the slices, to learn from.

    Raises
    ------
    EmflowError
        If it says that its voxels are no cubes of this size, or is constant or too small.
    """
    volume = open_volume(path)
    voxel = volume.voxel_nm or (pixel_nm,) * 3
    if any(abs(side / pixel_nm - 1) > 0.1 for side in voxel):
        raise EmflowError(
            f"{path}: voxels of {voxel[0]:g} × {voxel[1]:g} × {voxel[2]:g} nm; expected cubes of {pixel_nm:g} nm, the "
            "slices' pixel (within 10 %). Bin or resample it."
        )
    pixels = torch.from_numpy(read_middle(volume, cfg.max_slices, cfg.max_side_px))
    try:
        return isotropic(pixels, [grid.factor], cfg.crop_px, cfg.seed, grid.stretch)
    except EmflowError as error:
        raise EmflowError(f"{path}: {error}") from None


def read_filler(weights: Path, device: torch.device) -> tuple[Filler, Model]:
    """Read a trained filler.

    Raises
    ------
    EmflowError
        If the weights are damaged or another network's.
    """
    model = read_kind(weights, KIND, "vem train")
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
        int(facts.get("orientations", 1)),
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


def first_weights(start: str, factor: int, seed: int, or_scratch: bool = False) -> tuple[UNet, str]:
    """Network that a training begins with, and what its weights are: their checksum, or scratch.

    Parameters
    ----------
    start
        general, scratch, or the path of weights (or of their folder) from vem pretrain or vem train.
    or_scratch
        Begin from scratch where the weights have nothing for the factor.

    Raises
    ------
    EmflowError
        If the weights are not there, damaged, or another factor's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(factor)
    if start == "scratch":
        return network, start
    path = GENERAL if start == "general" else Path(start)
    model = read_model(path / "model.safetensors" if path.is_dir() else path)
    kind = model.network.get("kind")
    if kind not in (KIND, GENERAL_KIND):
        raise EmflowError(f"{path}: weights of a {kind}; expected those of vem pretrain or vem train.")
    factors = model.network["factors"] if kind == GENERAL_KIND else [model.network["factor"]]
    if factor not in factors and or_scratch:
        return network, "scratch"
    if factor not in factors:
        raise EmflowError(
            f"{path}: weights for slices {', '.join(map(str, factors))} pixels apart, none for {factor}. Set "
            "vem.train.start to scratch."
        )
    network.load_state_dict(state_of(model.state, factor) if kind == GENERAL_KIND else model.state)
    return network, model.sha256


def to_tensor(block: np.ndarray, path: Path, device: torch.device) -> Tensor:
    """Return a block of intensities on the device."""
    return torch.from_numpy(as_float(block, path)).to(device)

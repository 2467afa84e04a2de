"""Planes and samplers that the sampling verbs read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from emflow.nn.weights import Model, read_kind
from emflow.step import EmflowError
from emflow.vem.config import VemTrainSampler
from emflow.vem.grid import Grid
from emflow.vem.inputs import grid_of, read_filler
from emflow.vem.inputs_slices import Measured
from emflow.vem.model import Filler
from emflow.vem.sampler import Flow, Sampler
from emflow.vem.texture import AXIAL_REACH, LATERAL_REACH
from emflow.vem.train_sampler import Planes

KIND = "texture sampler"
_UNSEEN = 8
"""Every so-manieth slice is kept from training, as vem train keeps it."""
_UNSEEN_SIDE = 4
"""This part of an isotropic volume's side is kept from training."""


@dataclass(frozen=True)
class Examples:
    """What a sampler learns from and is judged on."""

    learned: Planes
    unseen: Planes
    slices: Tensor
    """Measured slices, (S, H, W), in the filler's units."""
    axial: bool
    """Whether the planes hold the axis: of an isotropic volume."""


def require_grid(filler: Filler, grid: Grid, model: Path, volume: Path) -> None:
    """Refuse slices as far apart as another model's, or not a whole number of pixels apart.

    Raises
    ------
    EmflowError
        If they are.
    """
    if not grid.whole or not filler.grid.whole:
        raise EmflowError(
            f"{volume}: slices are {grid.ratio:.4g} pixels apart; texture is sampled for whole numbers only."
        )
    if grid.factor != filler.factor:
        raise EmflowError(
            f"{volume}: slices are {grid.factor} pixels apart; {model} fills gaps of {filler.factor}. Give the volume "
            "that the model was trained on, or for the training an isotropic one."
        )


def read_examples(
    measured: Measured, voxel_nm: tuple[float, float, float], filler: Filler, cfg: VemTrainSampler
) -> Examples:
    """Read the middle of a volume: slices, to be thinned out along both axes, or isotropic, to be thinned out along z.

    Absent slices are not learned from.

    Raises
    ------
    EmflowError
        If slices are as far apart as another model's, or too few.
    """
    isotropic = max(voxel_nm) / min(voxel_nm) < 1.02
    if not isotropic:
        require_grid(filler, grid_of(measured.volume, voxel_nm), Path("the model"), measured.volume.path)
    pixels, used = measured.learned(cfg.max_slices, cfg.max_side_px)
    units = (pixels - filler.mean) / filler.deviation
    if isotropic:
        kept = units.shape[1] * (_UNSEEN_SIDE - 1) // _UNSEEN_SIDE
        learned = Planes([units[:, :kept].permute(1, 0, 2), units[:, :kept].permute(2, 0, 1)], turn=False)
        unseen = Planes([units[:, kept:].permute(1, 0, 2)], turn=False)
        return Examples(learned, unseen, units[:: filler.factor].contiguous(), axial=True)
    hidden = torch.arange(len(units)) % _UNSEEN == _UNSEEN // 2
    shown, kept_back = units[used & ~hidden], units[used & hidden]
    if not len(shown) or not len(kept_back):
        raise EmflowError(
            f"{measured.volume.path}: {int(used.sum())} slices to use; expected at least {_UNSEEN // 2 + 1}."
        )
    return Examples(Planes([shown], turn=True), Planes([kept_back], turn=True), units, axial=False)


def read_sampler(weights: Path, model: Path, device: torch.device) -> tuple[Sampler, Model, Model]:
    """Read a sampler and the filler it was trained with; with the weights of both.

    Raises
    ------
    EmflowError
        If the weights are damaged, another network's, or belong to another filler.
    """
    filler, filling = read_filler(model, device)
    found = read_kind(weights, KIND, "vem train-sampler", "sampler.safetensors")
    if found.facts["filler"] != filling.sha256:
        raise EmflowError(
            f"{weights}: was trained with another model than {model}. Give that one, or train anew."
        )
    state = dict(found.state)
    taps, kernel = state.pop("taps"), state.pop("kernel")
    expected = (2 * AXIAL_REACH + 1, *(2 * LATERAL_REACH + 1,) * 2)
    if tuple(kernel.shape) != expected:
        raise EmflowError(f"{weights}: a kernel of {tuple(kernel.shape)}; expected {expected}. Train anew.")
    network = Flow(filler.factor)
    network.load_state_dict(state)
    sampler = Sampler(
        network.eval().to(device), filler, taps.to(device), kernel, float(found.facts["deviation"])
    )
    return sampler, found, filling

"""Begin a refinement from first maps, or go on from a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from emflow.em.fourier import resample
from emflow.em.fsc import first_below, fsc, shell_index
from emflow.em.images import ImageSet
from emflow.em.pose_fit import FIELDS, FittedPoses
from emflow.reconstruct.refine import HalfState, Refinement, State

_HALF = ("volume", "noise")


def start_state(refinement: Refinement, volumes: tuple[Tensor, Tensor], voxel_size_angstrom: float) -> State:
    """State before the first iteration, from two first maps in one frame.

    Each map is put on the images' grid, in the images' units (white noise of deviation 1 in a pixel makes a
    particle's contrast grow with the square of the pixel), and filtered by the FSC of the two.
    """
    images = refinement.images
    scale = (images.pixel_size_angstrom / voxel_size_angstrom) ** 2
    resampled = [
        resample(volume.to(images.device), voxel_size_angstrom, images.box, images.pixel_size_angstrom)
        * scale
        for volume in volumes
    ]
    sphere = refinement.sphere
    curve = fsc(resampled[0] * sphere, resampled[1] * sphere).cpu()
    shell = first_below(curve, 0.143)
    weight = curve.clamp(min=0).clone()
    # a first map that nothing agrees with still gets its chance at the lowest shells
    least = max(3, round(0.5 * refinement.first_band))
    weight[: least + 1] = weight[: least + 1].clamp(min=0.3)
    weight[max(least, len(curve) if shell is None else shell) + 1 :] = 0
    padded = torch.nn.functional.pad(weight, (0, 1)).float().to(images.device)
    index = shell_index(images.box, device=images.device)
    side = (images.box,) * 3
    filtered = [torch.fft.irfftn(torch.fft.rfftn(v) * padded[index], s=side) for v in resampled]
    return refinement.begin((filtered[0], filtered[1]), curve)


def pack(state: State) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All of a state as tensors and JSON."""
    tensors = {"fsc": state.fsc}
    for number, half in enumerate(state.halves, start=1):
        tensors |= {f"half{number}.{name}": getattr(half, name) for name in _HALF}
        tensors |= {f"half{number}.poses.{name}": getattr(half.poses, name) for name in FIELDS}
    more = {
        "filling": state.filling,
        "iteration": state.iteration,
        "history": state.history,
        "finished": state.finished,
    }
    return tensors, more


def unpack(tensors: dict[str, Tensor], more: dict[str, Any], images: ImageSet) -> State:
    """The state that was packed."""
    halves = []
    for number in (1, 2):
        kept = {name: tensors[f"half{number}.{name}"].to(images.device) for name in _HALF}
        poses = FittedPoses(*(tensors[f"half{number}.poses.{name}"] for name in FIELDS))
        halves.append(HalfState(images.rows(number), poses=poses, **kept))
    return State((halves[0], halves[1]), tensors["fsc"], **more)

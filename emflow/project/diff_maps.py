"""Two projects' maps compared: the same frame or not, correlation, FSC between them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from emflow.em.frames import align_frames
from emflow.em.fsc import fsc, resolution_at
from emflow.em.volume_align import Alignment, apply_alignment
from emflow.figure import BLUE, INK, MUTED, ORANGE, figure, styled
from emflow.io.mrc import read_header, read_mrc
from emflow.step import EmflowError

REFINED = Path("reconstruct") / "refine"
_BAND = 24
"""Shells on which it is decided whether two maps stand in one frame."""
_ONE_FRAME = 0.8
"""Mean FSC of those shells above which they do: maps of other orientation correlate by a few tenths at most."""


@dataclass(frozen=True)
class MapsCompared:
    """Two refined maps."""

    said: list[str]
    """In words."""
    curves: dict[str, Tensor]
    """FSC of each pair: between the projects, and between each one's half maps."""
    a: Tensor
    b: Tensor
    """Half-map means, b in the frame of a."""
    voxel_size_angstrom: float


def compare_maps(a: Path, b: Path, symmetry: str) -> MapsCompared | str:
    """Compare the refined maps of two projects; a sentence where they cannot be.

    Means of the raw half maps are compared within A's mask. They are aligned first where they do not stand in one
    frame already, as those of a branch do.
    """
    for folder in (a, b):
        if not (folder / REFINED / "half1.mrc").is_file():
            return f"{folder.name} has no refined map yet."
    files = [folder / REFINED / "half1.mrc" for folder in (a, b)]
    if os.path.samefile(*files):
        return "The refined maps are the same files."
    headers = [read_header(file) for file in files]
    if headers[0].shape != headers[1].shape or not np.isclose(
        headers[0].voxel_size_angstrom, headers[1].voxel_size_angstrom, rtol=1e-3
    ):
        boxes = [f"{h.shape[0]} px of {h.voxel_size_angstrom:.4g} Å" for h in headers]
        return (
            f"The maps have other boxes ({boxes[0]} and {boxes[1]}): they cannot be compared voxel by voxel."
        )
    voxel = headers[0].voxel_size_angstrom
    halves = [[_read(folder, name) for name in ("half1", "half2")] for folder in (a, b)]
    mask = _read(a, "mask")
    one, other = (0.5 * (pair[0] + pair[1]) for pair in halves)
    if torch.equal(one, other):
        return "The refined maps are equal."
    if not bool(one.any()) or not bool(other.any()):
        return "One of the refined maps is empty."
    said = []
    as_they_are = _low(one * mask, other * mask)
    if as_they_are < _ONE_FRAME:
        alignment = align_frames(other, one, symmetry)
        moved = apply_alignment(other, alignment)
        if _low(one * mask, moved * mask) > as_they_are + 0.05:
            said.append(_turned(alignment, voxel))
            halves[1] = [apply_alignment(half, alignment) for half in halves[1]]
            other = moved
    else:
        said.append("The maps stand in one frame.")
    curves = {
        f"{a.name} to {b.name}": fsc(one * mask, other * mask),
        f"half maps of {a.name}": fsc(halves[0][0] * mask, halves[0][1] * mask),
        f"half maps of {b.name}": fsc(halves[1][0] * mask, halves[1][1] * mask),
    }
    inside = mask > 0.5
    correlation = float(torch.corrcoef(torch.stack([one[inside], other[inside]]))[0, 1])
    box = one.shape[-1]
    names = list(curves)
    said.append(f"Correlation inside {a.name}'s mask: {correlation:.4f}.")
    agree = resolution_at(curves[names[0]], 0.5, box, voxel)
    said.append(f"They agree (FSC 0.5) {_to(agree, box, voxel)}.")
    said += [
        f"FSC 0.143 between {name}: {_to(resolution_at(curves[name], 0.143, box, voxel), box, voxel)}."
        for name in names[1:]
    ]
    return MapsCompared(said, curves, one, other, voxel)


def _read(folder: Path, name: str) -> Tensor:
    path = folder / REFINED / f"{name}.mrc"
    if not path.is_file():
        raise EmflowError(f"{path}: missing; expected beside the other results of the refinement.")
    return torch.from_numpy(read_mrc(path).astype(np.float32))


def _low(a: Tensor, b: Tensor) -> float:
    return float(fsc(a, b)[1 : min(_BAND, a.shape[-1] // 4)].mean())


def _to(resolution: float | None, box: int, voxel: float) -> str:
    if resolution is None:
        return "nowhere"
    return f"to {resolution:.3g} Å" + (" (Nyquist)" if resolution <= 2.0 * voxel * (1 + 1 / box) else "")


def _turned(alignment: Alignment, voxel: float) -> str:
    cosine = float((alignment.rotation.trace() - 1) / 2)
    angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    shift = float(alignment.shift.norm()) * voxel
    mirror = " and inverted" if alignment.mirrored else ""
    return f"The maps stood in other frames: B was turned by {angle:.1f}°, shifted by {shift:.1f} Å{mirror}."


@styled
def draw_maps(found: MapsCompared) -> Figure:
    """Draw the FSC curves, and central sections of both maps and of what differs."""
    fig = figure(8.0, 2.6)
    curve_axis, *axes = fig.subplots(1, 4, width_ratios=(1.5, 1, 1, 1))
    box = found.a.shape[-1]
    frequency = np.arange(box // 2 + 1) / (box * found.voxel_size_angstrom)
    for (name, curve), colour in zip(found.curves.items(), (INK, BLUE, ORANGE), strict=True):
        curve_axis.plot(frequency, curve.numpy(), color=colour, label=name)
    for level in (0.143, 0.5):
        curve_axis.axhline(level, color=MUTED, lw=0.6, ls=":")
    curve_axis.set(ylim=(-0.1, 1.02), xlabel="frequency, 1/Å", ylabel="FSC")
    curve_axis.legend(fontsize=6.5)
    middle = box // 2
    sections = [found.a[middle].numpy(), found.b[middle].numpy()]
    sections.append(sections[1] - sections[0])
    limit = float(np.percentile(np.abs(np.stack(sections[:2])), 99.5)) or 1.0
    for ax, image, title in zip(axes, sections, ("A", "B", "B − A"), strict=True):
        ax.imshow(image, cmap="gray", vmin=-limit, vmax=limit)
        ax.set_title(title)
        ax.set_axis_off()
    return fig

"""Figures of the refinement of the CTF: the defocus over a micrograph and in all, the phases of a tilted beam."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from emflow.em.optics import Ctf
from emflow.figure import BLUE, INK, MUTED, ORANGE, figure, styled
from emflow.reconstruct.beam_tilt import design_of
from emflow.reconstruct.ctf_match import Geometry
from emflow.reconstruct.ctf_refine import CtfFit, Tilt


@styled
def draw_defocus(fit: CtfFit, place_px: np.ndarray, micrograph: np.ndarray) -> Figure:
    """Offsets over the micrograph with most particles, and over all; places (N, 2), micrograph numbers (N,)."""
    drawn = figure(7.2, 2.9)
    left, right = drawn.subplots(1, 2, width_ratios=(1.15, 1))
    offset = fit.offset.numpy()
    fullest = int(np.bincount(micrograph).argmax())
    mine = micrograph == fullest
    reach = max(float(np.abs(offset[mine]).max()), 1.0)
    points = left.scatter(*place_px[mine].T, c=offset[mine], cmap="coolwarm", vmin=-reach, vmax=reach, s=26)
    drawn.colorbar(points, ax=left, label="defocus offset (Å)", shrink=0.85)
    left.set(
        title=f"micrograph with most particles ({mine.sum()})",
        xlabel="x (px)",
        ylabel="y (px)",
        aspect="equal",
    )
    left.invert_yaxis()
    bins = np.histogram_bin_edges(offset, 40).tolist()
    right.hist(offset, bins, color=BLUE, label="particles")
    typical = float(fit.deviation.median())
    right.axvspan(-typical, typical, color=ORANGE, alpha=0.25, lw=0, label="± median deviation")
    applied = {"particle": "applied", "micrograph": "applied as its micrograph's", "none": "not applied"}[
        fit.level
    ]
    right.set(title=f"all particles: {applied}", xlabel="defocus offset (Å)", ylabel="particles")
    right.set_ylim(top=1.3 * right.get_ylim()[1])  # room for the legend
    right.legend()
    return drawn


@styled
def draw_tilt(tilt: Tilt, geometry: Geometry, optics: Ctf) -> Figure:
    """Phases of all images against their references, smoothed, and those of the tilt that was fitted."""
    drawn = figure(7.2, 3.1)
    left, right = drawn.subplots(1, 2)
    reach = int(geometry.plane.radius[-1])
    values = torch.cat([tilt.mean_mrad, 0.5 * (tilt.halves[0].shift_px + tilt.halves[1].shift_px)])
    fitted = -(values @ design_of(geometry, optics))
    inside = geometry.inside.cpu().bool()
    observed = _smooth(_plane(torch.complex(*tilt.sums.product), geometry, reach))
    known = _plane(inside.to(torch.complex128), geometry, reach) != 0
    model = torch.where(known, _plane(torch.polar(torch.ones_like(fitted), fitted), geometry, reach), 1.0)
    scale = max(0.2, float(fitted[inside].abs().max()))
    frequency = reach / geometry.extent_angstrom
    for ax, values_, title in ((left, observed, "observed"), (right, model, "fitted tilt")):
        phase = torch.where(known, values_.angle(), torch.nan).numpy()
        shown = ax.imshow(
            phase, cmap="coolwarm", vmin=-scale, vmax=scale, origin="lower",
            extent=(-frequency, frequency, -frequency, frequency),
        )  # fmt: skip
        ax.set(title=title, xlabel="kx (1/Å)", ylabel="ky (1/Å)")
        ax.axhline(0, color=MUTED, lw=0.4)
        ax.axvline(0, color=INK, lw=0.4)
    drawn.colorbar(shown, ax=[left, right], label="phase (rad)", shrink=0.85)
    return drawn


def _plane(values: Tensor, geometry: Geometry, reach: int) -> Tensor:
    """Complex numbers of the half plane (M,) on the whole square, with their conjugates at −k."""
    ky, kx = geometry.plane.ky.long().cpu(), geometry.plane.kx.long().cpu()
    square = torch.zeros(2 * reach + 1, 2 * reach + 1, dtype=values.dtype)
    square[reach - ky, reach - kx] = values.conj()
    square[reach + ky, reach + kx] = values
    return square


def _smooth(square: Tensor) -> Tensor:
    """Means over 5 × 5 pixels."""
    pair = torch.view_as_real(square).permute(2, 0, 1)[:, None]
    return torch.view_as_complex(
        torch.nn.functional.avg_pool2d(pair, 5, 1, 2)[:, 0].permute(1, 2, 0).contiguous()
    )

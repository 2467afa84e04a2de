"""Figures of directions: FSC in cones, resolution over the half sphere, views and slices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

from emflow.figure import BLUE, GREEN, INK, MUTED, ORANGE, figure, styled
from emflow.validate.angles import Views, fourier_coverage, view_density
from emflow.validate.directional import Cones
from emflow.validate.figures import resolution_axis
from emflow.validate.maps import THRESHOLD


@styled
def draw_cones(cones: Cones) -> Figure:
    """Draw the FSC of all cones as a band with their mean and extremes, and each direction's resolution."""
    fig = figure(7.4, 3.3)
    left, right = fig.subplots(1, 2, width_ratios=[1.25, 1])
    curves = cones.curves.numpy()
    shells = np.arange(cones.first_shell, min(cones.band_shell + 1, curves.shape[1]))
    x, part = shells / (cones.box * cones.voxel_size_angstrom), curves[:, shells]
    worst, best = int(cones.areas.argmin()), int(cones.areas.argmax())
    left.fill_between(x, part.min(0), part.max(0), color=BLUE, alpha=0.15, lw=0, label="all cones")
    low, high = np.percentile(part, [16, 84], axis=0)
    left.fill_between(x, low, high, color=BLUE, alpha=0.25, lw=0, label="two thirds of them")
    left.plot(x, part.mean(0), color=INK, lw=1.8, label="mean")
    left.plot(x, part[best], color=GREEN, lw=1, label="cone of the greatest area")
    left.plot(x, part[worst], color=ORANGE, lw=1, label="cone of the least area")
    left.axhline(THRESHOLD, color=INK, lw=0.6, ls=":")
    left.annotate(f"{THRESHOLD:g}", (x[-1], THRESHOLD), xytext=(3, 0), textcoords="offset points",
                  va="center", fontsize=7)  # fmt: skip
    left.set_ylim(min(-0.12, float(part.min()) - 0.05), 1.02)
    resolution_axis(left, x[-1], x[0])
    left.set_ylabel("FSC in cones of 20°, masked")
    left.set_title(f"area ratio {cones.area_ratio:.2f}, sphericity {cones.sphericity:.2f}")
    left.legend(loc="best", fontsize=7)
    _draw_disc(right, cones)
    return fig


def _draw_disc(ax: Axes, cones: Cones) -> None:
    """Draw the half sphere from above (+z in the middle), equal areas staying equal (Lambert)."""
    values = cones.resolutions().numpy()
    axis = torch.linspace(-1, 1, 121, dtype=torch.float64)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    squared = u * u + v * v
    # r = √2 sin(tilt/2), here with r = 1 at the equator: z = 1 − r²
    scale = (2 - squared).clamp_min(0).sqrt()
    points = torch.stack([u * scale, v * scale, 1 - squared], -1).reshape(-1, 3)
    nearest = (points @ cones.directions.T).abs()
    weight = torch.exp(60 * (nearest - 1))
    field = (weight @ torch.from_numpy(values).double()) / weight.sum(1)
    field[(squared > 1.1).reshape(-1)] = torch.nan
    image = ax.imshow(field.reshape(121, 121).numpy(), origin="lower", extent=(-1, 1, -1, 1), cmap="viridis_r",
                      vmin=values.min(), vmax=max(values.max(), values.min() * 1.01))  # fmt: skip
    image.set_clip_path(Circle((0, 0), 1, transform=ax.transData))
    for tilt in (30, 60, 90):
        radius, angle = np.sqrt(2) * np.sin(np.radians(tilt / 2)), np.linspace(0, 2 * np.pi, 181)
        ax.plot(radius * np.cos(angle), radius * np.sin(angle), color="white" if tilt < 90 else MUTED, lw=0.6)
        ax.annotate(
            f"{tilt}°", (0.71 * radius, 0.71 * radius), color="white" if tilt < 90 else MUTED, fontsize=7
        )
    for index, name, colour in (
        (cones.areas.argmin(), "worst", ORANGE),
        (cones.areas.argmax(), "best", GREEN),
    ):
        x, y, z = cones.directions[index].tolist()
        place = (x / np.sqrt(1 + z), y / np.sqrt(1 + z))
        ax.plot(*place, "o", ms=6, mfc=colour, mec="white")
        inward = x > 0.2
        ax.annotate(name, place, xytext=(-6 if inward else 6, 3), ha="right" if inward else "left",
                    textcoords="offset points", color="white", fontsize=8, weight="bold")  # fmt: skip
    ax.set_title("Resolution by direction, +z in the middle")
    ax.set_axis_off()
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, pad=0.03)
    bar.ax.tick_params(labelsize=7)
    bar.ax.invert_yaxis()
    bar.set_label("Å", fontsize=8)


@styled
def draw_views(views: Views) -> Figure:
    """Draw where the particles are seen from, and how well their slices fill Fourier space."""
    fig = figure(7.2, 2.5)
    density, coverage = _on_grid(views, view_density), _on_grid(views, fourier_coverage)
    titles = (f"Directions of view, {views.count} views", "Slices through each Fourier direction")
    for column, (title, values) in enumerate(zip(titles, (density, coverage), strict=True)):
        ax = fig.add_subplot(1, 2, column + 1, projection="mollweide")
        edges_x, edges_y = np.linspace(-np.pi, np.pi, 91), np.linspace(-np.pi / 2, np.pi / 2, 46)
        top = max(2.0, float(np.percentile(values, 99.5)))
        image = ax.pcolormesh(edges_x, edges_y, values, cmap="viridis", vmin=0, vmax=top, rasterized=True)
        if values.min() < 0.1 and column == 1:
            centres = [(edges[1:] + edges[:-1]) / 2 for edges in (edges_x, edges_y)]
            ax.contour(*centres, values, levels=[0.1], colors=[ORANGE], linewidths=1)
            title += "\n(inside orange: nearly empty)"
        ax.set_xticks(np.radians([-120, -60, 0, 60, 120]), ["-120°", "-60°", "rot 0°", "60°", "120°"])
        ax.set_yticks(np.radians([-60, 0, 60]), ["tilt 150°", "90°", "30°"])
        ax.tick_params(labelsize=6.5, colors="white", axis="x")
        ax.tick_params(labelsize=6.5, axis="y")
        ax.set_title(title, pad=8)
        bar = fig.colorbar(image, ax=ax, shrink=0.75, pad=0.03)
        bar.ax.tick_params(labelsize=7)
        bar.set_label("relative to uniform", fontsize=7)
    return fig


def _on_grid(views: Views, function: Callable[[Views, Tensor], Tensor]) -> np.ndarray:
    """Evaluate a density on a grid of 45 latitudes and 90 longitudes."""
    latitude = torch.deg2rad(torch.arange(-88.0, 90, 4, dtype=torch.float64))
    longitude = torch.deg2rad(torch.arange(-178.0, 180, 4, dtype=torch.float64))
    la, lo = torch.meshgrid(latitude, longitude, indexing="ij")
    directions = torch.stack([la.cos() * lo.cos(), la.cos() * lo.sin(), la.sin()], -1).reshape(-1, 3)
    return np.asarray(function(views, directions).reshape(la.shape))

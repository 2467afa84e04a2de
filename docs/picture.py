"""Draw the picture of the README from a finished demo: `make demo && python docs/picture.py`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from PIL import Image

from emflow.figure import BLUE, MUTED, ORANGE, figure, png_bytes, styled
from emflow.io.mrc import read_mrc
from emflow.io.star import floats, read_star
from emflow.report.gather import gather
from emflow.report.pictures import gallery

OUT = Path(__file__).parent / "images" / "demo.png"


def draw_micrograph(ax: Axes, results: Path) -> None:
    """The first micrograph of the report's gallery, with its picks."""
    picture = gallery(gather(results), 1)[0]
    assert picture.jpeg is not None, picture.problem
    size = (0, picture.width_px, picture.height_px, 0)
    ax.imshow(np.asarray(Image.open(io.BytesIO(picture.jpeg))), cmap="gray", extent=size)
    for place in picture.picks:
        ax.add_patch(Circle(place, picture.radius_px, fill=False, color=ORANGE, lw=0.8))
    ax.set_title("micrograph and picks")


def draw_denoised(ax: Axes, results: Path) -> None:
    """The same micrograph, denoised."""
    picture = gallery(gather(results), 1)[0]
    assert picture.denoised is not None
    ax.imshow(np.asarray(Image.open(io.BytesIO(picture.denoised))), cmap="gray")
    ax.set_title("denoised")


def draw_latents(ax: Axes, results: Path) -> None:
    """Latent coordinates, coloured by state."""
    table = read_star(results / "heterogeneity" / "latents.star")["particles"]
    x, y = (floats(table, f"emflowLatent{k}") for k in (1, 2))
    ax.scatter(x, y, c=floats(table, "emflowCluster"), s=3, cmap="tab10", linewidths=0)
    ax.set(title="heterogeneity", xlabel="coordinate 1", ylabel="coordinate 2")


def draw_map(ax: Axes, results: Path) -> None:
    """Projection of the masked map."""
    refined = results / "reconstruct" / "refine"
    volume = read_mrc(refined / "map.mrc") * read_mrc(refined / "mask.mrc")
    n = volume.shape[0]
    crop = slice(n // 8, n - n // 8)
    ax.imshow(volume.clip(0).sum(1)[crop, crop], cmap="gray", origin="lower", interpolation="bicubic")
    ax.set_title("map")


def draw_fsc(ax: Axes, results: Path) -> None:
    """Curves of the validation."""
    table = read_star(results / "validate" / "fsc.star")["fsc"]
    frequency = floats(table, "rlnResolution")
    for column, colour, label in (
        ("UnmaskedMaps", MUTED, "unmasked"),
        ("Corrected", BLUE, "corrected"),
    ):
        ax.plot(frequency, floats(table, f"rlnFourierShellCorrelation{column}"), color=colour, label=label)
    ax.axhline(0.143, color=MUTED, lw=0.7, ls=":")
    ax.set(title="FSC of half maps", xlabel="frequency (1/Å)", ylim=(-0.05, 1.05))
    ax.legend(loc="lower left")


@styled
def main() -> None:
    """Draw the panels side by side."""
    results = Path("results/demo")
    fig = figure(12.5, 2.6)
    panels = fig.subplots(1, 5)
    for ax, draw in zip(
        panels, (draw_micrograph, draw_denoised, draw_map, draw_latents, draw_fsc), strict=True
    ):
        draw(ax, results)
    for ax in panels[:3]:
        ax.axis("off")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_bytes(png_bytes(fig, 110))
    print(OUT)


if __name__ == "__main__":
    main()

"""Draw the picture of the README from a finished demo: `make demo && python docs/picture.py`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from PIL import Image

from emflow.figure import BLUE, INK, MUTED, ORANGE, figure, png_bytes, styled
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


def draw_ctf(ax: Axes, results: Path) -> None:
    """Spectrum and fit of the first micrograph."""
    table = read_star(results / "ctf" / "shard_00001.profiles.star")["profiles"]
    table = table[table["emflowMicrographId"] == table["emflowMicrographId"].iloc[0]]
    frequency = floats(table, "emflowFrequency")
    ax.plot(frequency, floats(table, "emflowSpectrum"), color=INK, lw=1, label="spectrum")
    ax.plot(frequency, floats(table, "emflowCtfFit"), color=ORANGE, lw=1, label="fitted CTF²")
    ax.set(title="CTF", xlabel="frequency (1/Å)", ylim=(-0.3, 1.5))
    ax.legend(loc="upper right", ncols=2)


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
    """Draw the four panels side by side."""
    results = Path("results/demo")
    fig = figure(11.5, 2.9)
    panels = fig.subplots(1, 4)
    for ax, draw in zip(panels, (draw_micrograph, draw_ctf, draw_map, draw_fsc), strict=True):
        draw(ax, results)
    for ax in (panels[0], panels[2]):
        ax.axis("off")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_bytes(png_bytes(fig, 110))
    print(OUT)


if __name__ == "__main__":
    main()

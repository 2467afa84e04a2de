"""The figures of validation, in the order in which one asks."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pandas as pd

from emflow.io.star import read_star
from emflow.report.embed import data_uri, drawn_uri
from emflow.report.figures import draw_fsc_table
from emflow.report.gather import Results


class Shown(NamedTuple):
    """A figure as the page shows it."""

    alt: str
    caption: str
    source: str
    """The picture as a data URI."""


FIGURES: dict[str, tuple[str, str]] = {
    "figures/directions": (
        "Fourier shell correlation in cones, and the resolution in each direction",
        "Fourier shell correlation within cones of 20° about all directions, and the resolution over the half "
        "sphere: what the map itself says of missing views.",
    ),
    "figures/views": (
        "Distribution of the directions of view, and coverage of Fourier space",
        "From where the particles are seen, and how many central slices go through each direction of Fourier "
        "space, both relative to an even distribution.",
    ),
    "local/figures/local": (
        "Slices through the map, coloured by local resolution",
        "Slices coloured by the local resolution (windowed Fourier shell correlation).",
    ),
    "particles/figures/agreement": (
        "Correlation of the images with both half maps, ring by ring",
        "How the raw images correlate with the map of the other half, and with that of their own half made "
        "without them; where the second is higher, the poses follow noise.",
    ),
    "particles/figures/scores": (
        "Histogram of the images' scores",
        "How well each image matches the other half's map, and what noise would score.",
    ),
    "particles/figures/number": (
        "Resolution against the number of particles",
        "Resolution of random subsets of the particles, at the poses of all of them.",
    ),
    "noise_control/figures/noise_control": (
        "Fourier shell correlation of the noise control",
        "The same refinement of images whose fine detail was replaced by noise: what its half maps agree on is "
        "not the particle's.",
    ),
    "figures/noise": (
        "Power of the half maps and of their noise, and the correlation in the solvent",
        "Power of the half maps and of their noise, within the mask and in the solvent (they should meet beyond "
        "the resolution), and the Fourier shell correlation of the solvent alone (it should be zero).",
    ),
    "figures/guinier": (
        "Guinier plot",
        "Amplitudes of the map over 1/d², with the line of the B factor that sharpens it.",
    ),
    "figures/hand": (
        "Right against left winding of the map's rods",
        "Whether rods of the map wind to the right, as α-helices do, or to the left.",
    ),
    "figures/model_fsc": (
        "Fourier shell correlation of model and map",
        "The atomic model against the map and both halves.",
    ),
    "figures/residues": (
        "Scores of the model's residues",
        "Q-score and correlation along each chain of the model.",
    ),
    "figures/particles": (
        "Histograms of orientation, in-plane angle, shift and defocus",
        "The particle table: orientations in bins of equal area, in-plane angles, shifts and defocus.",
    ),
}
"""File below ``validate/``, without its ending → what it shows, and its caption."""

CTF_FIGURES: dict[str, tuple[str, str]] = {
    "figures/defocus": (
        "Defocus offsets over a micrograph, and their histogram",
        "By how much the defocus of each particle differs from its micrograph's: over the micrograph with most "
        "particles, and of all.",
    ),
    "figures/beam_tilt": (
        "Phases of the images against their references, and those of the fitted beam tilt",
        "Phases of all images against their references (means of 5 × 5 pixels), and those of the beam tilt "
        "that was fitted.",
    ),
}
"""File below ``reconstruct/ctf/``, likewise."""


def validation_figures(results: Results) -> list[Shown]:
    """Figures of the refinement of the CTF and of all parts of the validation that ran."""
    named = {f"reconstruct/ctf/{name}": words for name, words in CTF_FIGURES.items()}
    return stored_figures(results, named | {f"validate/{name}": words for name, words in FIGURES.items()})


def stored_figures(results: Results, named: dict[str, tuple[str, str]]) -> list[Shown]:
    """Figures that rooms have drawn, as far as they are there: path without its ending → what it shows, caption."""
    shown = []
    for name, (alt, caption) in named.items():
        path = results.path(*f"{name}.png".split("/"))
        if path is not None:
            shown.append(Shown(alt, caption, data_uri(path.read_bytes(), "png")))
    return shown


def fsc_figure(results: Results) -> str:
    """Validate's curves; without them those that the latest reconstruction wrote."""
    path = results.path("validate", "figures", "fsc.png")
    if path is not None:
        return data_uri(path.read_bytes(), "png")
    for parts in (("validate",), ("reconstruct", "refine"), ("reconstruct", "abinitio")):
        path = results.path(*parts, "fsc.star")
        if path is not None:
            tables = results.attempt(functools.partial(read_star, path), dict[str, pd.DataFrame]())
            table = next((t for t in tables.values() if "rlnResolution" in t), pd.DataFrame())
            figure = drawn_uri(results, functools.partial(draw_fsc_table, table))
            if figure:
                return figure
    return ""

"""Read simulated sessions as examples of the picker network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from emflow.device import generator
from emflow.io.mrc import read_mrc
from emflow.io.star import floats, read_star
from emflow.pick.filters import gaussian_blur
from emflow.pick.junk import add_junk
from emflow.pick.learn import Example
from emflow.pick.network import DIAMETER_PX, normalise
from emflow.pick.normalise import resize

SCALE_SPREAD = 0.18
"""Natural logarithm of the factor by which the diameter may be wrong."""
JUNK_PART = 0.7
"""Part of the examples on which further contamination is painted."""
VARIANTS = ("raw", "denoised", "masked")
_STREAM = 62


@dataclass(frozen=True)
class Simulated:
    """A simulated micrograph with its truth."""

    path: Path
    pixel_size_angstrom: float
    diameter_angstrom: float
    xy_px: np.ndarray
    broken_xy_px: np.ndarray

    @property
    def diameter_px(self) -> float:
        """The particle's, in pixels."""
        return self.diameter_angstrom / self.pixel_size_angstrom

    def mask(self) -> Tensor:
        """1 on carbon, aggregates, crystals and beads."""
        return self.read(self._truth("masks"))

    def clean(self) -> Tensor:
        """The image without noise."""
        return self.read(self._truth("clean"))

    def raw(self) -> Tensor:
        """The image."""
        return self.read(str(self.path))

    def read(self, name: str) -> Tensor:
        """Some image of it."""
        return torch.from_numpy(read_mrc(name))

    def clear_of(self, dirt: Tensor) -> np.ndarray:
        """Particles (n, 2) whose centres do not lie on contamination (y, x)."""
        if dirt.ndim == 0 or not len(self.xy_px):
            return self.xy_px
        at = self.xy_px.round().astype(int).clip(0, np.array(dirt.shape[::-1]) - 1)
        return self.xy_px[dirt.numpy()[at[:, 1], at[:, 0]] == 0]

    def _truth(self, what: str) -> str:
        return str(self.path.parent.parent / "truth" / what / self.path.name)


def near(xy: np.ndarray, others: np.ndarray, distance: float) -> np.ndarray:
    """Which positions (n, 2) have one of the others (m, 2) within a distance."""
    if not len(others) or not len(xy):
        return np.zeros(len(xy), dtype=bool)
    return np.asarray(np.isfinite(cKDTree(others).query(xy, distance_upper_bound=distance)[0]))


def simulated(session: Path) -> list[Simulated]:
    """Micrographs of a session of ``emflow simulate session``."""
    truth = session / "truth"
    facts = json.loads((truth / "facts.json").read_text(encoding="utf-8"))
    whole, broken = (_by_name(truth / name) for name in ("particles.star", "broken.star"))
    none = np.zeros((0, 2))
    return [
        Simulated(
            path,
            facts["pixel_size_angstrom"],
            facts["diameter_angstrom"],
            whole.get(path.name, none),
            broken.get(path.name, none),
        )
        for path in sorted((session / "micrographs").glob("*.mrc"))
    ]


def _by_name(table: Path) -> dict[str, np.ndarray]:
    """Positions (n, 2) as x, y of each micrograph of a table."""
    if not table.exists():
        return {}
    rows = read_star(table)["particles"]
    if not len(rows):
        return {}
    xy = np.column_stack([floats(rows, "rlnCoordinateX"), floats(rows, "rlnCoordinateY")])
    names = np.array([Path(name).name for name in rows["rlnMicrographName"]])
    return {str(name): xy[names == name] for name in np.unique(names)}


def examples_of(
    micrograph: Simulated, denoised: Mapping[str, Path], seed: int, *stream: int
) -> list[Example]:
    """One example of each of :data:`VARIANTS`: as it is, denoised in some way, and with its contamination masked.

    Parameters
    ----------
    denoised
        Denoised images by the path of the micrograph; another denoiser is imitated in half of the cases.
    """
    found = []
    for number, variant in enumerate(VARIANTS):
        random = generator(seed, _STREAM, *stream, number)
        chance = torch.rand(4, generator=random).tolist()
        image = micrograph.raw()
        if variant == "denoised" or (variant == "masked" and chance[0] < 0.4):
            image = _denoised(micrograph, image, denoised, random)
        factor = micrograph.diameter_px / DIAMETER_PX
        factor *= math.exp(SCALE_SPREAD * (2 * chance[1] - 1))
        small, dirt = resize(-image, factor), (resize(micrograph.mask(), factor) > 0.3).float()
        known = dirt
        if chance[2] < JUNK_PART:
            small, more = add_junk(small, DIAMETER_PX, random)
            dirt = torch.maximum(dirt, more)
            known = dirt if chance[3] < 0.5 else known
        weight = 1 - known if variant == "masked" else torch.ones_like(small)
        scale = np.array(small.shape) / np.array(image.shape)
        centres, broken = (
            ((xy[:, ::-1] + 0.5) * scale - 0.5) for xy in (micrograph.xy_px, micrograph.broken_xy_px)
        )
        hidden = dirt.numpy()[tuple(centres.round().astype(int).clip(0).T)] > 0 if len(centres) else []
        centres = centres[~np.asarray(hidden, dtype=bool)]
        found.append(Example(normalise(small, weight), centres, broken, dirt))
    return found


def _denoised(
    micrograph: Simulated, image: Tensor, denoised: Mapping[str, Path], random: torch.Generator
) -> Tensor:
    """The shipped denoiser's image, or the noise-free one with some of the noise, smoothed."""
    kind, part, smooth = torch.rand(3, generator=random).tolist()
    if kind < 0.5:
        return micrograph.read(str(denoised[str(micrograph.path)]))
    clean = micrograph.clean()
    return clean + (0.1 + 0.6 * part) * gaussian_blur(image - clean, 0.3 + 3 * smooth)


def denoised_names(table: Path) -> dict[str, Path]:
    """Denoised images by the path of their micrograph, from the table of ``emflow denoise apply``."""
    rows = read_star(table)["micrographs"]
    names = zip(rows["rlnMicrographName"], rows["emflowDenoisedName"], strict=True)
    return {str(name): Path(image) for name, image in names}

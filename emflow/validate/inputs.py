"""What the validate room reads: half maps, mask, particles, and why it may refuse them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emflow.em.atoms import AtomicModel
from emflow.em.masks import solvent_mask
from emflow.io.atoms import read_model as read_atomic_model
from emflow.io.mrc import MrcHeader, read_header, read_mrc
from emflow.io.star import floats, integers, read_star, read_table
from emflow.step import EmflowError
from emflow.validate.config import HalfMaps, MaskedMaps
from emflow.validate.maps import mask_edge_width


@dataclass(frozen=True)
class Mask:
    """The mask in use, and what is to be said about it."""

    values: Tensor
    description: str
    edge_px: float
    volume_angstrom3: float
    diameter_angstrom: float | None
    """Diameter of a ball of the particle's volume; only where the mask was made here."""
    path: Path | None = None
    """The file it was read from; None where it was made here."""

    @classmethod
    def read(cls, path: Path, like: MrcHeader, voxel: float, device: torch.device) -> Mask:
        """Read a mask with values 0…1 of the half maps' box."""
        values = read_volume(path, like, device)
        low, high = float(values.min()), float(values.max())
        if low < -1e-3 or high > 1.001 or high <= 0:
            raise EmflowError(f"{path}: values from {low:g} to {high:g}; a mask has values from 0 to 1.")
        volume = float(values.double().sum()) * voxel**3
        edge = mask_edge_width(values)
        text = f"Mask {path}: {volume / 1e3:.0f} nm³, soft edge of {edge:.1f} voxels"
        return cls(values, text, edge, volume, None, path)

    @classmethod
    def make(cls, mean: Tensor, voxel: float, cfg: MaskedMaps) -> Mask:
        """Make a mask from the mean of the half maps."""
        edge_angstrom = max(cfg.mask_edge_angstrom, 5 * voxel)
        made = solvent_mask(
            mean,
            voxel,
            lowpass_angstrom=max(cfg.mask_lowpass_angstrom, 2 * voxel),
            dilate_angstrom=cfg.mask_dilate_angstrom,
            edge_angstrom=edge_angstrom,
            threshold_deviations=cfg.mask_threshold_deviations,
        )
        kind = "Mask made from the map" if made.found else "No particle rises above the solvent; mask: sphere"
        text = f"{kind}: {made.volume_angstrom3 / 1e3:.0f} nm³, soft edge of {edge_angstrom:.3g} Å"
        diameter = (6 / torch.pi * made.core_volume_angstrom3) ** (1 / 3) if made.found else None
        edge = mask_edge_width(made.mask)
        return cls(made.mask, text, edge, made.volume_angstrom3, diameter)


def check_headers(paths: tuple[Path, Path], headers: list[MrcHeader], told: float | None) -> float:
    """Refuse what cannot be a pair of raw half maps; return the voxel size."""
    for path, header in zip(paths, headers, strict=True):
        if header.restored:
            raise EmflowError(
                f"{path}: made from denoised or otherwise restored pixels (its label says so). An FSC of such maps "
                "says nothing about resolution: give half maps from the raw particles."
            )
        if header.control:
            raise EmflowError(
                f"{path}: made from a noise control (its label says so), not from data. Compare it with the maps of the "
                "particles by `emflow validate noise-compare`."
            )
        if len(header.shape) != 3 or len(set(header.shape)) != 1:
            raise EmflowError(f"{path}: has shape {header.shape}; expected a cubic map.")
    first, second = headers
    if first.shape != second.shape:
        raise EmflowError(
            f"The half maps differ in box: {paths[0]} has {first.shape[0]} voxels a side, {paths[1]} has "
            f"{second.shape[0]}. Give two halves of one refinement."
        )
    if told is not None:
        return told
    if abs(first.voxel_size_angstrom - second.voxel_size_angstrom) > 1e-3 * max(
        first.voxel_size_angstrom, 1e-9
    ):
        raise EmflowError(
            f"The half maps differ in voxel size: {first.voxel_size_angstrom:g} and {second.voxel_size_angstrom:g} Å. "
            "If the headers are wrong, give --voxel-size-angstrom."
        )
    if first.voxel_size_angstrom <= 0:
        raise EmflowError(f"{paths[0]}: the header has no voxel size; give --voxel-size-angstrom.")
    return first.voxel_size_angstrom


def read_pair(
    paths: tuple[Path, Path], told: float | None, device: torch.device
) -> tuple[tuple[Tensor, Tensor], MrcHeader, float]:
    """Read two half maps that belong together: the maps, the first header, the voxel size. Either may be empty."""
    headers = [read_header(path) for path in paths]
    voxel = check_headers(paths, headers, told)
    one, two = (torch.from_numpy(read_mrc(path)).to(device) for path in paths)
    if bool(one.any()) and bool(two.any()):
        check_pixels(paths, [one, two])
    return (one, two), headers[0], voxel


def read_single(path: Path, told: float | None, device: torch.device) -> tuple[Tensor, MrcHeader, float]:
    """Read one raw map that stands without half maps: the map, its header, the voxel size."""
    header = read_header(path)
    voxel = check_headers((path, path), [header, header], told)
    volume = torch.from_numpy(read_mrc(path)).to(device)
    if not bool(torch.isfinite(volume).all()):
        raise EmflowError(f"{path}: holds values that are not finite (NaN or infinity).")
    return volume, header, voxel


def check_pixels(paths: tuple[Path, Path], halves: list[Tensor]) -> None:
    """Refuse maps that are not finite, constant, or the same."""
    for path, half in zip(paths, halves, strict=True):
        if not bool(torch.isfinite(half).all()):
            raise EmflowError(f"{path}: holds values that are not finite (NaN or infinity).")
        if float(half.max()) == float(half.min()):
            raise EmflowError(f"{path}: is constant; expected a half map.")
    if _same(halves[0], halves[1]):
        raise EmflowError(
            f"{paths[0]} and {paths[1]} are the same map (or one is a multiple of the other). "
            "Give the two halves of one refinement."
        )


def _same(one: Tensor, two: Tensor) -> bool:
    """Whether two maps are multiples of each other, but for a constant."""
    sums = torch.zeros(3, dtype=torch.float64, device=one.device)
    means = [map_.mean(dtype=torch.float64) for map_ in (one, two)]
    for parts in zip(one.split(16), two.split(16), strict=True):
        a, b = (part.double() - mean for part, mean in zip(parts, means, strict=True))
        sums += torch.stack([(a * b).sum(), a.square().sum(), b.square().sum()])
    return bool(sums[0].abs() > (1 - 1e-9) * (sums[1] * sums[2]).sqrt())


def read_volume(path: Path, like: MrcHeader, device: torch.device) -> Tensor:
    """Read a map of the half maps' shape."""
    values = read_mrc(path)
    if values.shape != like.shape:
        raise EmflowError(f"{path}: has shape {values.shape}, the half maps have {like.shape}.")
    return torch.from_numpy(values).to(device)


def read_model(path: Path, half: MrcHeader, voxel: float) -> AtomicModel:
    """Read an atomic model; positions relative to the centre n//2 of the half maps, as the first one's header has it."""
    model = read_atomic_model(path)
    centre = np.array(half.origin_angstrom) + half.shape[0] // 2 * voxel
    return model.moved(np.eye(3), -centre)


def read_particles(path: Path | None) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """Read the particle block of a STAR, and its optics groups where it has them; refuse restored particles."""
    if path is None:
        return None, None
    tables = read_star(path)
    name = next((block for block in ("particles", "images", "") if block in tables), None)
    if name is None:
        raise EmflowError(f"{path}: has no block data_particles.")
    table = tables[name]
    if "emflowRestored" in table and bool((integers(table, "emflowRestored") != 0).any()):
        raise EmflowError(
            f"{path}: holds denoised or otherwise restored particles (emflowRestored). Maps from them cannot be "
            "validated: give the raw particles and the maps made from them."
        )
    if "emflowNoiseControl" in table:
        raise EmflowError(f"{path}: holds a noise control (emflowNoiseControl), not data.")
    return table, tables.get("optics")


def image_sizes(optics: pd.DataFrame | None) -> list[tuple[float, int]] | None:
    """Pixel size (Å) and box of the images of each optics group; None where the table does not say."""
    if optics is None or not {"rlnImagePixelSize", "rlnImageSize"} <= set(optics.columns):
        return None
    sizes = integers(optics, "rlnImageSize").tolist()
    return list(zip(floats(optics, "rlnImagePixelSize").tolist(), sizes, strict=True))


def read_verdicts(folder: Path | None) -> list[dict[str, str]]:
    """Read the verdicts of a reconstruction's folder; none without a folder."""
    if folder is None:
        return []
    path = folder / "verdicts.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EmflowError(f"{path}: no such file; expected the folder of a reconstruction.") from None
    except json.JSONDecodeError as error:
        raise EmflowError(f"{path}: not valid JSON: {error}.") from None
    return [row for row in rows if isinstance(row, dict) and "verdict" in row]


@dataclass(frozen=True)
class StateMaps:
    """What a heterogeneity analysis left of one state."""

    name: str
    particles: int
    halves: tuple[Tensor, Tensor] | None
    """None where a half map is missing or empty: then one half-set has no particle of this state."""
    voxel_size_angstrom: float
    mask: Mask | None
    """The mask that was given; None if the state's own is to be made."""


def read_states(
    analysis: Path, mask: Path | None, cfg: HalfMaps, device: torch.device
) -> Iterator[StateMaps]:
    """Read the states of an analysis one by one; none where nothing varies.

    Raises
    ------
    EmflowError
        If the folder is no analysis, or two half maps do not belong together.
    """
    if not (analysis / "latents.star").is_file():
        raise EmflowError(
            f"{analysis}: no latents.star there; expected the folder of `emflow heterogeneity analyze`."
        )
    for table in sorted(analysis.glob("states/*/particles.star")):
        name, count = table.parent.name, len(read_table(table, "particles"))
        paths = (table.parent / "half1.mrc", table.parent / "half2.mrc")
        if not all(path.is_file() for path in paths):
            yield StateMaps(name, count, None, 0.0, None)
            continue
        headers = [read_header(path) for path in paths]
        voxel = check_headers(paths, headers, cfg.voxel_size_angstrom)
        one, two = (torch.from_numpy(read_mrc(path)).to(device) for path in paths)
        if not (bool(one.any()) and bool(two.any())):
            yield StateMaps(name, count, None, voxel, None)
            continue
        check_pixels(paths, [one, two])
        given = Mask.read(mask, headers[0], voxel, device) if mask is not None else None
        yield StateMaps(name, count, (one, two), voxel, given)

"""Read what sharpening takes: two raw half maps, a mask, the transfer function of a detector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emflow.io.mrc import read_header, read_mrc
from emflow.io.star import floats, read_star
from emflow.reconstruct.inputs import read_pair
from emflow.step import EmflowError


@dataclass(frozen=True)
class RawHalves:
    """Two raw half maps to be sharpened."""

    paths: tuple[Path, Path]
    volumes: tuple[Tensor, Tensor]
    voxel_size_angstrom: float
    mask: Tensor | None
    unrestored: bool
    """Whether both say that they come from unrestored pixels."""
    control: bool
    """Whether one is made from a noise control."""


def read_raw_halves(given: list[Path], out: Path, mask: Path | None, voxel: float | None) -> RawHalves:
    """Read the half maps of a folder, or two files, and the mask.

    Raises
    ------
    EmflowError
        Half maps of restored pixels, without a voxel size, or in the folder that is to be written; a mask of
        another box.
    """
    paths = (given[0] / "half1.mrc", given[0] / "half2.mrc") if len(given) == 1 else (given[0], given[1])
    if out.resolve() in {path.resolve().parent for path in paths}:
        raise EmflowError(
            f"{out}: holds the half maps; its metrics and curves would be overwritten. Name another folder."
        )
    volumes, found = read_pair(paths)
    headers = [read_header(path) for path in paths]
    for path, header in zip(paths, headers, strict=True):
        if header.restored:
            raise EmflowError(
                f"{path}: made from restored pixels (its label says so). Give the raw half maps of a refinement."
            )
    if voxel is None and found <= 0:
        raise EmflowError(f"{paths[0]}: the header has no voxel size; give --voxel-size-angstrom.")
    if mask is None and len(given) == 1 and (given[0] / "mask.mrc").exists():
        mask = given[0] / "mask.mrc"
    values = None
    if mask is not None:
        values = torch.from_numpy(read_mrc(mask))
        if values.shape != volumes[0].shape:
            raise EmflowError(
                f"{mask}: has shape {tuple(values.shape)}; expected that of the half maps, {tuple(volumes[0].shape)}."
            )
    return RawHalves(
        paths,
        volumes,
        voxel or found,
        values,
        all(header.unrestored for header in headers),
        any(header.control for header in headers),
    )


def read_mtf(path: Path, box: int, voxel_size_angstrom: float, pixel_size_angstrom: float | None) -> Tensor:
    """Modulation transfer of the detector at every shell of a box, (box//2 + 1,), float64.

    Parameters
    ----------
    path
        STAR table with rlnResolutionInversePixel (1/pixel, 0 … 0.5) and rlnMtfValue.
    box, voxel_size_angstrom
        Of the map.
    pixel_size_angstrom
        Pixel size that the table's frequencies refer to; None takes the voxel size.

    Raises
    ------
    EmflowError
        A table without these columns, with values that are not positive, or that ends below the map's Nyquist.
    """
    columns = ("rlnResolutionInversePixel", "rlnMtfValue")
    table = next((t for t in read_star(path).values() if set(columns) <= set(t)), None)
    if table is None:
        raise EmflowError(f"{path}: lacks the columns _{columns[0]} and _{columns[1]} of a detector's MTF.")
    frequency, value = (floats(table, name) for name in columns)
    order = np.argsort(frequency)
    frequency, value = frequency[order], value[order]
    asked = np.arange(box // 2 + 1) / box * (pixel_size_angstrom or voxel_size_angstrom) / voxel_size_angstrom
    if not (value > 0).all():
        raise EmflowError(f"{path}: holds MTF values that are not positive.")
    if asked[-1] > frequency[-1] + 1e-6:
        raise EmflowError(
            f"{path}: ends at {frequency[-1]:g} per pixel, but the map reaches {asked[-1]:.3g}. Set "
            "reconstruct.sharpen.mtf_pixel_size_angstrom to the pixel size of the detector."
        )
    return torch.from_numpy(np.interp(asked, frequency, value))

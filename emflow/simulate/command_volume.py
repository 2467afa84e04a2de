"""Command of the simulate room that makes volumes of tissue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import emflow.device
from emflow.io.atomic import write_text
from emflow.io.record import Record
from emflow.simulate.config import SimulateVolume
from emflow.step import EmflowError, Run

_SMALLEST_PX = 16


def volume(out: Path, /, *, cfg: SimulateVolume = SimulateVolume(), run: Run = Run()) -> None:
    """Make a volume of tissue with known truth, and what an electron microscope measures of it.

    Parameters
    ----------
    out
        Folder to write: measured (anisotropic, with its voxel), truth/image (isotropic, without noise), truth/labels
        (cells from 1; 0 is membrane), truth/membranes (1 is membrane), each .zarr or .tif, and truth/facts.json. And
        labels, where some slices are to be labelled: like measured, 0 in all other slices.
    """
    import numpy as np

    from emflow.simulate.organelles import stain
    from emflow.simulate.slicing import drawn_labels, expose, measure
    from emflow.simulate.tissue import grow_cells

    emflow.device.prepare(run, gpu=False)
    if min(cfg.size_px) < _SMALLEST_PX or cfg.size_px[0] <= 2 * cfg.z_factor:
        raise EmflowError(
            f"simulate.volume.size_px is {cfg.size_px}; expected at least {_SMALLEST_PX} voxels a side, and more than "
            f"{2 * cfg.z_factor:g} (two gaps of z_factor) along z."
        )
    with Record("simulate.volume", cfg, run, inputs=[]) as record:
        # one stream each, so that the tissue is the same whatever is done to the slices
        geometry, content, microscope = (np.random.default_rng([cfg.seed, stream]) for stream in range(3))
        radius = cfg.nucleus_radius_nm / cfg.voxel_nm
        diameter = cfg.cell_diameter_nm / cfg.voxel_nm
        cells = grow_cells(cfg.size_px, diameter, cfg.alignment, radius, geometry)
        staining, numbers = stain(cells, cfg, content)
        truth = expose(staining, cfg)
        slices = measure(truth, cfg, microscope)
        membrane = cells.depth < max(0.75, cfg.membrane_nm / cfg.voxel_nm / 2)
        found, compact = np.unique(cells.labels, return_inverse=True)
        labels = np.where(membrane, 0, compact.reshape(cells.labels.shape) + 1)
        kind = np.uint16 if len(found) < 2**16 else np.uint32
        isotropic = (cfg.voxel_nm,) * 3
        measured = (cfg.voxel_nm * cfg.z_factor, cfg.voxel_nm, cfg.voxel_nm)
        _write(out, "measured", _grey(slices.pixels), measured, cfg)
        _write(out, "truth/image", _grey(truth), isotropic, cfg)
        _write(out, "truth/labels", labels.astype(kind), isotropic, cfg)
        _write(out, "truth/membranes", membrane.astype(np.uint8), isotropic, cfg)
        if cfg.labelled_slices:
            _write(out, "labels", drawn_labels(labels.astype(kind), slices.facts, cfg), measured, cfg)
        facts: dict[str, Any] = {
            "voxel_nm": list(isotropic),
            "measured_voxel_nm": list(measured),
            "slices": len(slices.pixels),
            "cells": len(found),
            **numbers,
            **slices.facts,
            "settings": cfg.model_dump(mode="json"),
        }
        write_text(out / "truth" / "facts.json", json.dumps(facts, indent=1) + "\n")
        record.notes |= {"cells": len(found), "slices": len(slices.pixels), **numbers}


def _grey(pixels: Any) -> Any:
    """Round to eight bits."""
    return pixels.round().clip(0, 255).astype("uint8")


def _write(folder: Path, name: str, values: Any, voxel_nm: tuple[float, ...], cfg: SimulateVolume) -> None:
    """Write a volume with its voxel, in the format that is asked for."""
    path = folder / f"{name}.{'zarr' if cfg.file_format == 'zarr' else 'tif'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    z, y, x = voxel_nm
    if cfg.file_format == "tiff":
        import tifffile

        tifffile.imwrite(
            path, values, imagej=values.dtype.itemsize <= 2, resolution=(1 / x, 1 / y),
            metadata={"axes": "ZYX", "spacing": z, "unit": "nm"},
        )  # fmt: skip
        return
    from emflow.io.ome import create_image, write_pyramid

    chunk = tuple(min(n, 64) for n in values.shape)
    image = create_image(
        path,
        values.shape,
        values.dtype,
        (z, y, x),
        (chunk[0], chunk[1], chunk[2]),
        {"made_by": "simulate.volume"},
    )
    image[:] = values
    if name.endswith(("image", "measured")):  # a mean of labels is none
        write_pyramid(path)

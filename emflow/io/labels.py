"""Labels of OME-Zarr images: segments beside the intensities that they belong to, as the standard wants them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from emflow.io.ome import Voxel, create_image


def create_labels(
    image: Path,
    name: str,
    shape: tuple[int, int, int],
    voxel_nm: Voxel,
    chunk: tuple[int, int, int],
    notes: dict[str, Any],
) -> zarr.Array[Any]:
    """Create labels (uint32) of an image, or open them if they are there with the same shape, chunks and notes.

    Parameters
    ----------
    image
        The OME-Zarr image that they belong to; they are written into it, where viewers look for them.
    name
        Of the labels, among others of the same image.
    shape, voxel_nm, chunk
        Along z, y, x.
    notes
        Where they come from.

    Returns
    -------
    Their finest level, to be written chunk by chunk; :func:`emflow.io.ome.write_pyramid` makes the others.
    """
    among = zarr.open_group(labels_path(image, name).parent, mode="a", zarr_format=3)
    told: dict[str, Any] = dict(among.attrs).get("ome", {})  # type: ignore[assignment]
    names = sorted({*told.get("labels", []), name})
    among.attrs.update({"ome": {"version": "0.5", "labels": names}})
    path = labels_path(image, name)
    level = create_image(path, shape, np.dtype(np.uint32), voxel_nm, chunk, notes)
    group = zarr.open_group(path, mode="r+")
    described: dict[str, Any] = dict(group.attrs)["ome"]  # type: ignore[assignment]
    group.attrs.update({"ome": {**described, "image-label": {"source": {"image": "../../"}}}})
    return level


def labels_path(image: Path, name: str) -> Path:
    """Where an image's labels lie."""
    return image / "labels" / name

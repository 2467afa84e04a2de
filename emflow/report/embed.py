"""Pictures and figures as data URIs, for the page to hold."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from emflow.figure import png_bytes
from emflow.io.mrc import read_header, read_mrc
from emflow.io.star import read_star
from emflow.report.figures import draw_ctf_fits
from emflow.report.gather import Results, shard_files
from emflow.report.pictures import MicrographPicture, particle_images, particle_jpeg
from emflow.validate.figures import draw_map


def picture_entry(picture: MicrographPicture) -> dict[str, Any]:
    """One micrograph of the gallery, as the template wants it."""
    return {
        "name": Path(picture.name).name,
        "picture": picture,
        "source": data_uri(picture.jpeg, "jpeg") if picture.jpeg else "",
        "mask": data_uri(picture.mask, "png") if picture.mask else "",
        "raw": data_uri(picture.raw, "jpeg") if picture.raw else "",
        "denoised": data_uri(picture.denoised, "jpeg") if picture.denoised else "",
        "bar_px": _bar(picture.width_px * (picture.pixel_size_angstrom or 0))
        / (picture.pixel_size_angstrom or 1),
        "bar_nm": _bar(picture.width_px * (picture.pixel_size_angstrom or 0)) / 10,
    }


def _bar(width_angstrom: float) -> float:
    """Length of a scale bar, in ångström: a round number, at most a quarter of the width."""
    lengths = [a * 10**b for b in range(1, 6) for a in (1, 2, 5)]
    return max([length for length in lengths if length <= width_angstrom / 4], default=0)


def data_uri(content: bytes, kind: str) -> str:
    """Data URI of a PNG or JPEG."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def picture_uri(results: Results, *parts: str) -> str:
    """Data URI of a PNG that a room has drawn, or nothing where there is none."""
    path = results.path(*parts)
    return data_uri(path.read_bytes(), "png") if path is not None else ""


def drawn_uri(results: Results, draw: Callable[[], Figure | None]) -> str:
    """Data URI of a figure, or nothing where there is nothing to draw."""
    drawn = results.attempt(draw, None)
    return data_uri(png_bytes(drawn), "png") if drawn is not None else ""


def ctf_figure(results: Results, pictures: list[MicrographPicture]) -> str:
    """Data URI of the CTF fits of the gallery's micrographs."""
    titles: dict[str, str] = {}
    for picture in pictures:
        if picture.defocus_um is not None:
            fit = (
                f", fit to {picture.fit_resolution_angstrom:.1f} Å" if picture.fit_resolution_angstrom else ""
            )
            name = Path(picture.name).stem
            name = name if len(name) <= 28 else f"{name[:12]}…{name[-14:]}"
            titles[picture.identity] = f"{name}: {picture.defocus_um:.2f} µm{fit}"

    def draw() -> Figure | None:
        wanted, parts = set(titles), []
        for path in shard_files(results.folder, "ctf"):
            profiles = path.with_name(f"{path.stem}.profiles.star")
            if not wanted or not profiles.is_file():
                continue
            table = next(iter(read_star(profiles).values()))
            if "emflowMicrographId" in table:
                parts.append(table[table["emflowMicrographId"].isin(list(wanted))])
                wanted -= set(parts[-1]["emflowMicrographId"])
        return draw_ctf_fits(pd.concat(parts, ignore_index=True), titles) if parts else None

    return drawn_uri(results, draw)


def particle_sheet(results: Results) -> dict[str, Any]:
    """Some particles side by side, and what is to be said about them."""
    found = results.attempt(functools.partial(particle_images, results), None)
    if found is None:
        return {}
    images, pixel = found
    side = images.shape[-1] * pixel
    return {
        "source": data_uri(particle_jpeg(images), "jpeg"),
        "count": len(images),
        "box_px": images.shape[-1],
        "pixel": pixel,
        "side": side,
    }


def map_entry(results: Results, step: str) -> dict[str, Any]:
    """Slices and projections of a reconstruction's map; no picture where it holds nothing but zeros."""
    path = results.path("reconstruct", step, "map.mrc")
    if path is None:
        return {}

    def draw() -> Figure | None:
        assert path is not None
        volume = torch.from_numpy(read_mrc(path))
        if volume.ndim != 3 or not bool(volume.any()):
            return None
        mask_path = results.path("reconstruct", step, "mask.mrc")
        mask = torch.from_numpy(read_mrc(mask_path)) if mask_path else None
        mask = mask if mask is not None and mask.shape == volume.shape else None
        return draw_map(volume, read_header(path).voxel_size_angstrom, mask)

    return {
        "step": f"reconstruct.{step}",
        "source": drawn_uri(results, draw),
        "numbers": results.metrics.get(f"reconstruct.{step}", {}),
    }

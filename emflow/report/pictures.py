"""Pictures of micrographs and particles, small enough to stand in a page."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.image import imsave
from scipy import ndimage

from emflow.em.fourier import fourier_resize
from emflow.io.examples import choose
from emflow.io.image import read_image
from emflow.io.mrc import map_mrc
from emflow.io.star import Tables, floats, numbers_of, read_star
from emflow.report.gather import Results, shard_files
from emflow.report.summary import accepted_of
from emflow.step import EmflowError

WIDTH_PX = 620

Positions = dict[str, list[tuple[float, float]]]
"""Micrograph id → positions x, y in pixels."""


@dataclass(frozen=True)
class MicrographPicture:
    """One micrograph of the gallery, with its picks."""

    name: str
    identity: str
    why: str
    """Why it is shown, such as the best CTF fit."""
    jpeg: bytes | None
    """None where the image could not be read; ``problem`` says why."""
    problem: str
    mask: bytes | None
    """PNG of the area that picking left out, transparent elsewhere; None where there is none."""
    raw: bytes | None
    """The micrograph without a filter, beside ``denoised``; None where that is None."""
    denoised: bytes | None
    """The denoised micrograph; None where there is none."""
    width_px: int
    height_px: int
    """Size of the micrograph itself; the picture is smaller."""
    pick_count: int | None
    picks: list[tuple[float, float]]
    """Positions x, y in pixels of the micrograph."""
    radius_px: float
    defocus_um: float | None
    fit_resolution_angstrom: float | None
    accepted: bool
    pixel_size_angstrom: float | None


def gallery(results: Results, count: int = 6) -> list[MicrographPicture]:
    """Read and draw a few micrographs with their picks."""
    table = results.micrographs
    if "rlnMicrographName" not in table:
        return []
    chosen = choose(table, count)
    identities = [str(table["emflowMicrographId"].iloc[row]) for row, _ in chosen]
    none: Positions = {}
    picks = results.attempt(lambda: _picks_of(results.folder, identities), none)
    pixel = pixel_size(results)
    diameter = results.sample("diameter_angstrom")
    accepted = accepted_of(table)
    defocus = (numbers_of(table, "rlnDefocusU") + numbers_of(table, "rlnDefocusV")) / 2e4
    fit, counts = numbers_of(table, "rlnCtfMaxResolution"), numbers_of(table, "emflowPickCount")
    pictures = []
    for (row, why), identity in zip(chosen, identities, strict=True):
        name = str(table["rlnMicrographName"].iloc[row])
        jpeg, problem, shape = None, "", (0, 0)
        raw = denoised = None
        try:
            image = read_image(name)
            jpeg, shape = micrograph_jpeg(image, pixel, diameter), image.shape
            restored = _denoised(results, identity)
            if restored is not None:
                raw, denoised = (plain_jpeg(part, pixel, diameter) for part in (image, read_image(restored)))
        except (EmflowError, OSError) as error:
            problem = str(error)
        radius = diameter / pixel / 2 if diameter and pixel else max(shape) / 60
        pictures.append(
            MicrographPicture(
                name=name,
                identity=identity,
                why=why,
                jpeg=jpeg,
                problem=problem,
                mask=results.attempt(functools.partial(mask_png, results, identity), None),
                raw=raw,
                denoised=denoised,
                width_px=shape[1],
                height_px=shape[0],
                pick_count=int(counts[row]) if np.isfinite(counts[row]) else None,
                picks=picks.get(identity, []),
                radius_px=radius,
                defocus_um=float(defocus[row]) if np.isfinite(defocus[row]) else None,
                fit_resolution_angstrom=float(fit[row]) if np.isfinite(fit[row]) else None,
                accepted=bool(accepted[row]),
                pixel_size_angstrom=pixel,
            )
        )
    return pictures


def _denoised(results: Results, identity: str) -> Path | None:
    """The denoised image: that of the shown micrographs, or of all where they are kept."""
    shown = results.path("denoise", "shown", "images", f"{identity}.mrc")
    return shown or results.path("denoise", "images", f"{identity}.mrc")


def micrograph_jpeg(
    image: np.ndarray, pixel_size_angstrom: float | None, diameter_angstrom: float | None
) -> bytes:
    """Draw a micrograph as a person wants to see it: low-passed, flattened, grey levels by robust limits."""
    binned, diameter_px = _binned(image, pixel_size_angstrom, diameter_angstrom)
    seen = ndimage.gaussian_filter(binned, 0.07 * diameter_px)
    return jpeg_bytes(seen - ndimage.gaussian_filter(binned, 0.8 * diameter_px, mode="nearest"))


def plain_jpeg(
    image: np.ndarray, pixel_size_angstrom: float | None, diameter_angstrom: float | None
) -> bytes:
    """Draw a micrograph binned and flattened, without a low-pass."""
    binned, diameter_px = _binned(image, pixel_size_angstrom, diameter_angstrom)
    return jpeg_bytes(binned - ndimage.gaussian_filter(binned, 0.8 * diameter_px, mode="nearest"))


def _binned(
    image: np.ndarray, pixel_size_angstrom: float | None, diameter_angstrom: float | None
) -> tuple[np.ndarray, float]:
    """The image binned to the width of the page, and the diameter in its pixels."""
    step = max(1, round(max(image.shape) / WIDTH_PX))
    height, width = (side // step * step for side in image.shape)
    clean = np.nan_to_num(image[:height, :width], nan=0.0, posinf=0.0, neginf=0.0)
    binned = clean.reshape(height // step, step, width // step, step).mean((1, 3))
    return binned, (diameter_angstrom or 200.0) / ((pixel_size_angstrom or 3.0) * step)


def mask_png(results: Results, identity: str) -> bytes | None:
    """Draw a micrograph's contamination mask as a translucent layer; None where nothing is masked."""
    path = results.path("pick", "masks", f"{identity}.mrc")
    masked = map_mrc(path) > 0.5 if path is not None else np.zeros((1, 1), bool)
    if masked.ndim != 2 or not masked.any():
        return None
    layer = np.zeros((*masked.shape, 4), np.uint8)
    layer[masked] = (213, 94, 0, 110)
    no_version: Any = {"Software": None}
    with io.BytesIO() as buffer:
        imsave(buffer, layer, format="png", metadata=no_version)
        return buffer.getvalue()


def jpeg_bytes(image: np.ndarray, quality: int = 82) -> bytes:
    """Grey JPEG of an image, black at the 0.5th and white at the 99.5th percentile."""
    low, high = np.percentile(image, [0.5, 99.5])
    with io.BytesIO() as buffer:
        imsave(
            buffer,
            image,
            cmap="gray",
            vmin=low,
            vmax=max(high, low + 1e-12),
            format="jpeg",
            pil_kwargs={"quality": quality, "optimize": True},
        )
        return buffer.getvalue()


def pixel_size(results: Results) -> float | None:
    """Pixel size of the micrographs, in ångström, from the session's optics or the settings."""
    for path in shard_files(results.folder, "session")[:1]:
        none: Tables = {}
        optics = results.attempt(functools.partial(read_star, path), none).get("optics")
        if optics is not None and len(optics) and "rlnMicrographPixelSize" in optics:
            return float(floats(optics, "rlnMicrographPixelSize")[0])
    given = results.sample("pixel_size_angstrom")
    return float(given) if given else None


def _picks_of(folder: Path, identities: list[str]) -> Positions:
    """Picks of some micrographs, by their id."""
    wanted = set(identities)
    picks: Positions = {}
    for path in shard_files(folder, "pick"):
        tables = read_star(path)
        table = tables.get("particles")
        if table is None or "emflowMicrographId" not in table:
            continue
        here = table[table["emflowMicrographId"].isin(list(wanted))]
        for identity, x, y in zip(
            here["emflowMicrographId"],
            floats(here, "rlnCoordinateX"),
            floats(here, "rlnCoordinateY"),
            strict=True,
        ):
            picks.setdefault(identity, []).append((float(x), float(y)))
        if "micrographs" in tables and "emflowMicrographId" in tables["micrographs"]:
            wanted -= set(tables["micrographs"]["emflowMicrographId"])
        if not wanted:
            break
    return picks


def particle_images(results: Results, count: int = 40) -> tuple[np.ndarray, float] | None:
    """Some extracted particles, spread over the first shard that has any, and their pixel size.

    Returns
    -------
    Images (n, box, box), and the pixel size in ångström; None where there are none.
    """
    for path in shard_files(results.folder, "extract"):
        tables = read_star(path)
        table = tables.get("particles")
        if table is None or not len(table) or "rlnImageName" not in table:
            continue
        rows = np.unique(np.linspace(0, len(table) - 1, min(count, len(table))).astype(int))
        names = [str(table["rlnImageName"].iloc[row]).partition("@") for row in rows]
        stacks: dict[str, np.ndarray] = {}
        images = []
        for number, _, stack in names:
            if stack not in stacks:
                place = Path(stack) if Path(stack).exists() else path.parent / Path(stack).name
                stacks[stack] = map_mrc(place)
            images.append(np.asarray(stacks[stack][int(number) - 1], dtype=np.float32))
        optics = tables.get("optics")
        pixel = float(floats(optics, "rlnImagePixelSize")[0]) if optics is not None else 1.0
        return np.stack(images), pixel
    return None


def particle_jpeg(images: np.ndarray, columns: int = 10, side_px: int = 84) -> bytes:
    """Draw particles side by side, lightly low-passed, each stretched to its own grey levels."""
    soft = ndimage.gaussian_filter(images, (0, 1.0, 1.0))
    shown = fourier_resize(torch.from_numpy(soft), side_px).numpy() if soft.shape[-1] % 2 == 0 else soft
    low, high = np.percentile(shown, [1, 99.5], axis=(1, 2), keepdims=True)
    shown = np.clip((shown - low) / np.maximum(high - low, 1e-9), 0, 1)
    side, gap = shown.shape[-1], 3
    rows = -(-len(shown) // columns)
    sheet = np.ones((rows * (side + gap) - gap, min(columns, len(shown)) * (side + gap) - gap), np.float32)
    for i, image in enumerate(shown):
        y, x = i // columns * (side + gap), i % columns * (side + gap)
        sheet[y : y + side, x : x + side] = image
    return jpeg_bytes(sheet, 88)

"""What the page says of a restored volume."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from emflow.report.gather import Results
from emflow.report.summary import Numbers
from emflow.report.validation import stored_figures
from emflow.step import EmflowError

FIGURES: dict[str, tuple[str, str]] = {
    "vem/figures/plane": (
        "An xz plane as it was measured, interpolated, restored, and the half-width of its interval",
        "An xz plane through the middle: measured slices, linear interpolation, the restored volume, and the half-width "
        "of the interval about each voxel. Orange voxels are not to be relied on: their interval is wider than allowed.",
    ),
    "vem/figures/spectra": (
        "Power along the axis as a part of the power within slices",
        "Power along the axis as a part of the power within slices, which are sharp: 1 is isotropic. The restored volume "
        "is the expected one, hence smoother than what is there.",
    ),
    "vem/segmentation.zarr/figures/segments": (
        "Segments over an xz plane of the restored volume",
        "Segments of the plane in the middle, each in its own colour, over the restored volume.",
    ),
}
"""File below the project's results, without its ending → what it shows, and its caption."""


def volume_context(results: Results, summary: dict[str, Numbers]) -> dict[str, Any]:
    """Return what the template shows of a volume."""
    return {
        "headline": headline(summary),
        "rows": _rows(results, summary),
        "shown": stored_figures(results, FIGURES),
        "held_out": held_out(summary),
    }


def headline(summary: dict[str, Numbers]) -> str:
    """The result in one sentence."""
    done, trained = summary.get("vem", {}), summary.get("vem.model", {})
    voxel = done.get("voxel_nm")
    if voxel is None:
        return "A model was trained; nothing is restored yet." if trained else "Nothing is restored yet."
    return f"Restored to isotropic voxels of {voxel:g} nm. {held_out(summary)}".strip()


def held_out(summary: dict[str, Numbers]) -> str:
    """The held-out figure in words, for beside each picture; empty without one."""
    trained = summary.get("vem.model", {})
    ours, linear = trained.get("held_out_psnr_db"), trained.get("held_out_psnr_linear_db")
    if ours is None or linear is None:
        return ""
    return f"Hidden slices come back at a PSNR of {ours:.1f} dB, by linear interpolation at {linear:.1f} dB."


def _rows(results: Results, summary: dict[str, Numbers]) -> list[tuple[str, str]]:
    path, done = results.path("vem", "volume.json"), summary.get("vem", {})
    seen: dict[str, Any] = {}
    if path is not None:
        seen = results.attempt(functools.partial(_read, path), seen)
    rows = []
    if seen:
        rows.append(("Volume", str(seen.get("path", ""))))
        rows.append(("Measured", _sides(seen.get("shape"), seen.get("voxel_nm"))))
    if done.get("voxel_nm") is not None:
        shape = [done.get(f"{axis}_voxels") for axis in "zyx"]
        rows.append(("Restored", _sides(shape, [done["voxel_nm"]] * 3)))
    return rows


def _read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise EmflowError(f"{path}: expected the description of a volume.")
    return content


def _sides(shape: Any, voxel: Any) -> str:
    sides = " × ".join(str(n) for n in shape or []) + " voxels (z, y, x)"
    return f"{sides} of {' × '.join(f'{v:g}' for v in voxel)} nm" if voxel else sides

"""Compare a result with its counterpart of another run: bytes, else by kind within the stated tolerances."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emflow.io.mrc import map_mrc, read_header
from emflow.project import tolerance
from emflow.project.compare_tables import table_differences
from emflow.step import EmflowError

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_BLOCK = 64


@dataclass(frozen=True)
class Difference:
    """One thing that differs: what, by how much, and whether within tolerance."""

    what: str
    within: bool


def differences(before: Path, now: Path, finest_angstrom: float = 0.0) -> list[Difference]:
    """Compare two files by their kind; what differs, the worst first. Equal bytes are not looked at here.

    Parameters
    ----------
    finest_angstrom
        Resolution of the run, in ångström: maps are compared up to it, or to half of Nyquist where it is finer.
    """
    compare = _KINDS.get(before.suffix, _text)
    try:
        if compare is _images:
            found = [Difference(what, within) for what, within in _images(before, now, finest_angstrom)]
        else:
            found = [Difference(what, within) for what, within in compare(before, now)]
    except (EmflowError, OSError, ValueError) as error:
        return [Difference(f"cannot be compared: {error}", within=False)]
    return sorted(found, key=lambda item: item.within)


def _images(before: Path, now: Path, finest_angstrom: float = 0.0) -> Iterator[tuple[str, bool]]:
    old, new = map_mrc(before), map_mrc(now)
    if old.shape != new.shape:
        yield f"size {_size(old)} → {_size(new)}", False
    elif old.ndim == 3 and len(set(old.shape)) == 1 and old.std() > 0:
        yield _rings(old, new, read_header(before).voxel_size_angstrom, finest_angstrom)
    else:
        correlation = _correlation(old, new)
        limit = tolerance.CORRELATION.limit
        yield f"correlation {correlation:.6f} (at least {limit:g})", correlation >= limit


def _rings(
    old: np.ndarray, new: np.ndarray, voxel_angstrom: float, finest_angstrom: float
) -> tuple[str, bool]:
    """Compare two maps ring by ring up to a resolution; rings that a filter emptied are left out."""
    import torch

    from emflow.em.fsc import fsc, radial_average, shell_index

    a, b = (torch.from_numpy(np.array(volume, np.float32)) for volume in (old, new))
    side = len(a)
    last = side // 4
    if finest_angstrom > 0 and voxel_angstrom > 0:
        last = min(last, int(side * voxel_angstrom / finest_angstrom))
    power = radial_average(torch.fft.rfftn(a).abs() ** 2, shell_index(side))
    full = power[: last + 1] > tolerance.RING_POWER.limit * power.max()
    worst = float(fsc(a, b)[: last + 1][full].min())
    limit = tolerance.FSC.limit
    return (
        f"FSC to {side * voxel_angstrom / max(last, 1):.3g} Å {worst:.4f} (at least {limit:g})",
        worst >= limit,
    )


def _size(image: np.ndarray) -> str:
    return " × ".join(map(str, image.shape))


def _correlation(old: np.ndarray, new: np.ndarray) -> float:
    """Correlation of two arrays, read in pieces; 1 for two constants that are equal."""
    sums = np.zeros(5)
    count = 0
    for start in range(0, len(old), _BLOCK):
        a = np.asarray(old[start : start + _BLOCK], np.float64)
        b = np.asarray(new[start : start + _BLOCK], np.float64)
        sums += [a.sum(), b.sum(), (a * a).sum(), (b * b).sum(), (a * b).sum()]
        count += a.size
    mean_a, mean_b, aa, bb, ab = sums / count
    variances = (aa - mean_a**2) * (bb - mean_b**2)
    if variances <= 0:
        return float(np.isclose(mean_a, mean_b) and np.isclose(aa, bb))
    return float((ab - mean_a * mean_b) / np.sqrt(variances))


def _json(before: Path, now: Path) -> Iterator[tuple[str, bool]]:
    old = dict(_leaves(json.loads(before.read_text(encoding="utf-8"))))
    new = dict(_leaves(json.loads(now.read_text(encoding="utf-8"))))
    for key in sorted(old.keys() ^ new.keys()):
        yield f"{key} is {'gone' if key in old else 'new'}", False
    for key in old.keys() & new.keys():
        if old[key] == new[key]:
            continue
        if _is_number(old[key]) and _is_number(new[key]):
            yield f"{key} {old[key]:.6g} → {new[key]:.6g}", _near(old[key], new[key])
        elif key.rsplit(".", 1)[-1] in ("evidence", "action"):
            yield f"{key}: other words", True  # they tell figures; the verdict beside them counts
        else:
            yield f"{key} {old[key]!r} → {new[key]!r}", False


def _leaves(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _leaves(value, f"{prefix}.{index}" if prefix else str(index))
    else:
        yield prefix, content


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _near(old: float, new: float) -> bool:
    return abs(old - new) <= max(tolerance.SMALL.limit, tolerance.NUMBER.limit * abs(old))


def _figure(before: Path, now: Path) -> Iterator[tuple[str, bool]]:
    from matplotlib.image import imread

    old, new = imread(before), imread(now)
    if old.shape != new.shape:
        yield f"size {_size(old)} → {_size(new)}", False
        return
    mean = float(np.abs(old.astype(float) - new.astype(float)).mean())
    yield f"pixels differ by {mean:.4f} (at most {tolerance.FIGURE.limit:g})", mean <= tolerance.FIGURE.limit


def _text(before: Path, now: Path) -> Iterator[tuple[str, bool]]:
    """Words must be equal, numbers near each other."""
    old, new = before.read_text(encoding="utf-8"), now.read_text(encoding="utf-8")
    if _NUMBER.sub("#", old) != _NUMBER.sub("#", new):
        yield "other text", False
        return
    pairs = zip(map(float, _NUMBER.findall(old)), map(float, _NUMBER.findall(new)), strict=True)
    far = sum(not _near(a, b) for a, b in pairs)
    yield f"{far} numbers beyond tolerance", far == 0


_KINDS: dict[str, Callable[[Path, Path], Iterator[tuple[str, bool]]]] = {
    ".mrc": _images,
    ".mrcs": _images,
    ".star": table_differences,
    ".json": _json,
    ".png": _figure,
}

"""N5 arrays: blocks of raw or compressed big-endian values, axes x first (https://github.com/saalfeldlab/n5).

Zarr 3 no longer reads them.
"""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from emflow.io.ome import NANOMETRES, Voxel
from emflow.step import EmflowError

_CODECS: dict[str, Callable[[bytes], bytes | bytearray]] = {
    "raw": bytes,
    "gzip": gzip.decompress,
    "zlib": zlib.decompress,
    "bzip2": bz2.decompress,
    "xz": lzma.decompress,
    "zstd": imagecodecs.zstd_decode,
    "blosc": imagecodecs.blosc_decode,
}


@dataclass(frozen=True)
class N5Array:
    """An array; all lengths are in the order of numpy's axes, the reverse of the file's."""

    folder: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    block: tuple[int, ...]
    compression: str
    voxel_nm: Voxel | None

    def read(self, region: tuple[slice, ...]) -> np.ndarray:
        """Return a region; blocks that are not stored are 0.

        Raises
        ------
        EmflowError
            If a block is damaged.
        """
        spans = [part.indices(length)[:2] for part, length in zip(region, self.shape, strict=True)]
        out = np.zeros([max(0, end - first) for first, end in spans], self.dtype)
        if not out.size:
            return out
        numbers = [range(a // side, -(-b // side)) for (a, b), side in zip(spans, self.block, strict=True)]
        for number in itertools.product(*numbers):
            path = self.folder.joinpath(*(str(n) for n in reversed(number)))
            if not path.is_file():
                continue
            values = self._decode(path)
            starts = [n * side for n, side in zip(number, self.block, strict=True)]
            pairs = [
                (max(a, start), min(b, start + length), start, a)
                for (a, b), start, length in zip(spans, starts, values.shape, strict=True)
            ]
            if all(low < high for low, high, _, _ in pairs):
                to = tuple(slice(low - a, high - a) for low, high, _, a in pairs)
                out[to] = values[tuple(slice(low - start, high - start) for low, high, start, _ in pairs)]
        return out

    def _decode(self, path: Path) -> np.ndarray:
        """Header: mode, number of axes (16 bits each), lengths (32 bits each), x first; then the values."""
        content = path.read_bytes()
        axes = len(self.shape)
        begin = 4 + 4 * axes
        try:
            mode, number = np.frombuffer(content, ">u2", 2).tolist()
            lengths = tuple(np.frombuffer(content, ">u4", axes, offset=4).tolist())
            if mode != 0 or number != axes:
                raise ValueError(f"mode {mode} with {number} axes; expected mode 0 with {axes}")
            values = self._values(content[begin:])
            if len(values) < math.prod(lengths):
                raise ValueError(f"{len(values)} values; expected {math.prod(lengths)}")
        except (ValueError, OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError) as error:
            raise EmflowError(
                f"{path}: not a readable N5 block ({error}). It was cut short or damaged."
            ) from None
        return values[: math.prod(lengths)].reshape(lengths[::-1])

    def _values(self, content: bytes) -> np.ndarray:
        plain = _CODECS[self.compression](content)
        stored = self.dtype.newbyteorder(">")
        return np.frombuffer(plain, stored, len(plain) // stored.itemsize).astype(self.dtype)


def is_n5(path: Path) -> bool:
    """Whether a folder is an N5 container or an array of one."""
    return (path / "attributes.json").exists()


def open_n5(path: Path, inside: str = "") -> N5Array:
    """Open an array of an N5 container; of a pyramid the finest level, ``s0``.

    Raises
    ------
    EmflowError
        If there is no array, or its type or compression is not read.
    """
    folder = path / inside
    if not folder.is_dir():
        raise EmflowError(f"{path}: no {inside} in it. Arrays there: {_listed(path)}.")
    about = _attributes(folder)
    if "dimensions" not in about and (folder / "s0").is_dir():
        folder = folder / "s0"
        about = _attributes(folder)
    if "dimensions" not in about:
        raise EmflowError(f"{folder}: an N5 group; name the array in it. Arrays there: {_listed(path)}.")
    told = about.get("compression", about.get("compressionType", "raw"))
    compression = str(told["type"] if isinstance(told, dict) else told)
    if compression == "gzip" and isinstance(told, dict) and told.get("useZlib"):
        compression = "zlib"
    if compression not in _CODECS:
        raise EmflowError(
            f"{folder}: N5 blocks compressed by {compression} are not read; expected {', '.join(_CODECS)}. Convert "
            "the array, for example to OME-Zarr."
        )
    try:
        dtype = np.dtype(about["dataType"])
        shape = tuple(int(n) for n in reversed(about["dimensions"]))
        block = tuple(int(n) for n in reversed(about["blockSize"]))
    except (KeyError, TypeError, ValueError) as error:
        raise EmflowError(f"{folder / 'attributes.json'}: not that of an N5 array ({error}).") from None
    return N5Array(folder, shape, dtype, block, compression, _voxel(path, folder, about))


def _attributes(folder: Path) -> dict[str, Any]:
    path = folder / "attributes.json"
    if not path.exists():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EmflowError(f"{path}: cannot be read ({error}).") from None
    return found


def _listed(path: Path) -> str:
    found = [
        str(file.parent.relative_to(path))
        for file in sorted(path.rglob("attributes.json"))
        if "dimensions" in _attributes(file.parent)
    ]
    return ", ".join(f"{path}:/{name}" for name in found[:8]) or "none"


def _voxel(root: Path, folder: Path, about: dict[str, Any]) -> Voxel | None:
    """Voxel along z, y, x, from an array's attributes or its group's, as N5's viewers and COSEM write them."""
    factors = about.get("downsamplingFactors", [1, 1, 1])
    own = _told(about)
    if own is not None:
        return own
    group = _told(_attributes(folder.parent)) if folder != root else None
    if group is None or len(factors) != 3:
        return group
    z, y, x = (size * float(factor) for size, factor in zip(group, reversed(factors), strict=True))
    return z, y, x


def _told(about: dict[str, Any]) -> Voxel | None:
    transform = about.get("transform")
    if isinstance(transform, dict) and len(transform.get("scale", ())) == 3:
        units = [NANOMETRES.get(str(unit)) for unit in transform.get("units", ["nm"] * 3)]
        sizes = {
            str(axis).lower(): float(size) * (unit or math.nan)
            for axis, size, unit in zip(transform["axes"], transform["scale"], units, strict=True)
        }
        return _positive(sizes.get("z"), sizes.get("y"), sizes.get("x"))
    pixel = about.get("pixelResolution")
    if isinstance(pixel, dict) and len(pixel.get("dimensions", ())) == 3:
        unit = NANOMETRES.get(str(pixel.get("unit")), math.nan)
        x, y, z = (float(size) * unit for size in pixel["dimensions"])
        return _positive(z, y, x)
    plain = about.get("resolution", pixel)
    if isinstance(plain, list) and len(plain) == 3:
        unit = NANOMETRES.get(str((about.get("units") or ["nm"])[0]), math.nan)
        x, y, z = (float(size) * unit for size in plain)
        return _positive(z, y, x)
    return None


def _positive(z: float | None, y: float | None, x: float | None) -> Voxel | None:
    if z is None or y is None or x is None or not min(z, y, x) > 0:
        return None
    return z, y, x

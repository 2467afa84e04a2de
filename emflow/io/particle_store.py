"""The particle store: a disposable copy of particle images as Fourier pixels of half precision.

Each record is the transform of one image within a band, ``HalfPlane``'s pixels in their order, by radius:
real and imaginary part as float16. A smaller band is the start of each record, so early iterations read a
fraction of the bytes; no pass transforms anything. At full band a record has 2/5 of the bytes of float32
pixels. Records are read into memory with ``pread``, never mapped: memory is that of a batch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emflow.em.images import ImageSet, read_ahead
from emflow.em.slices import HalfPlane, complex_product
from emflow.io.atomic import atomic_path
from emflow.io.particles import Particles
from emflow.step import EmflowError

log = logging.getLogger("emflow")

_HEADER = 4096
_FORMAT = "emflow particle store 1"
_CHUNK = 1 << 24
"""Bytes that are checked at a time."""


@dataclass(frozen=True)
class StoreHeader:
    """What the first page of a store says."""

    key: str
    """Identity of the images and of their order."""
    count: int
    pixels: int
    """Complex numbers of a record."""
    scale: float
    """What they were divided by: a power of two."""
    checksum: int
    """CRC-32 of all records."""

    @property
    def record_bytes(self) -> int:
        """Of one image."""
        return 4 * self.pixels

    def pack(self) -> bytes:
        """The page."""
        content = json.dumps({"format": _FORMAT, **vars(self)}, sort_keys=True).encode()
        return content.ljust(_HEADER)


class ParticleStore:
    """An open store; a context that closes it. Threads may read at once."""

    def __init__(self, path: Path, header: StoreHeader) -> None:
        """Open the file."""
        self.header = header
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> ParticleStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        return self.header.count

    @property
    def scale(self) -> float:
        """What the pixels were divided by."""
        return self.header.scale

    def read(self, rows: Tensor, count: int) -> Tensor:
        """First ``count`` pixels of some images: (B, count, 2), float16. Neighbours are read at one go."""
        if count > self.header.pixels:
            raise ValueError(f"the store holds {self.header.pixels} pixels of an image, not {count}")
        wanted, back = np.unique(rows.numpy(), return_inverse=True)
        out = np.empty((len(wanted), count, 2), dtype="<f2")
        edges = [0, *(np.flatnonzero(np.diff(wanted) != 1) + 1).tolist(), len(wanted)]
        for first, last in zip(edges[:-1], edges[1:], strict=True):
            if first < last:
                self._read_run(int(wanted[first]), out[first:last])
        if not np.array_equal(back, np.arange(len(wanted))):
            out = out[back]
        return torch.from_numpy(out)

    def _read_run(self, row: int, out: np.ndarray) -> None:
        """Read the starts of successive records."""
        count, size = out.shape[1], self.header.record_bytes
        if 4 * count == size:
            self._read_at(row, out)
        elif 8 * count >= size:
            whole = np.empty((len(out), self.header.pixels, 2), dtype=out.dtype)
            self._read_at(row, whole)
            out[:] = whole[:, :count]
        else:
            for place in range(
                len(out)
            ):  # asked for all at once, a disk answers many times faster than one by one
                at = _HEADER + (row + place) * size
                os.posix_fadvise(self._file, at, 4 * count, os.POSIX_FADV_WILLNEED)
            for place in range(len(out)):
                self._read_at(row + place, out[place])

    def _read_at(self, row: int, out: np.ndarray) -> None:
        rest = out.reshape(-1).view(np.uint8).data
        at = _HEADER + row * self.header.record_bytes
        while rest:
            got = os.preadv(self._file, [rest], at)
            if not got:
                raise EmflowError(
                    "The particle store was cut short while it was read. Run the command again."
                )
            rest, at = rest[got:], at + got


def store_key(particles: Particles, plane: HalfPlane, shifts_px: Tensor | None = None) -> str:
    """Identity of what a store holds: stacks (name, size, time), the images' order, box, band and shifts."""
    assert particles.stack is not None
    assert particles.index is not None
    digest = hashlib.sha256(f"{plane.box} {len(plane)}".encode())
    for path in particles.stacks:
        stat = path.stat()
        digest.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    digest.update(particles.stack.astype("<i8").tobytes())
    digest.update(particles.index.astype("<i8").tobytes())
    if shifts_px is not None:
        digest.update(shifts_px.numpy().astype("<f4").tobytes())
        tilts = {name: particles.facts(name).beam_tilt_mrad for name in sorted(set(particles.groups))}
        if any(any(tilt) for tilt in tilts.values()):
            digest.update(repr([tilts[name] for name in particles.groups]).encode())
    return digest.hexdigest()


def open_store(
    path: Path, particles: Particles, images: ImageSet, plane: HalfPlane, shifts_px: Tensor | None = None
) -> ParticleStore:
    """Open the store of some images, or make it where there is none that is whole and of these.

    Parameters
    ----------
    path
        The store.
    particles, images
        The same N particles: their identity, and where they are read from.
    plane
        The pixels to keep: the finest band that will be asked for.
    shifts_px
        Shifts (x, y) that centre the particles, (N, 2): then the images are stored centred, and without beam tilt.

    Raises
    ------
    EmflowError
        The disk is full, or an image holds values that are not finite.
    """
    key = store_key(particles, plane, shifts_px)
    header = _usable(path, key)
    if header is None:
        log.info("Copying %d particles to %s, in half precision", len(images), path)
        for left in path.parent.glob(f".{path.stem}.*{path.suffix}"):
            left.unlink()  # what a killed run had copied: gigabytes
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            handle.write(bytes(_HEADER))
            checksum, scale = 0, 0.0
            for rows, values in _transforms(images, plane, shifts_px):
                scale = scale or _power_of_two(values)
                half = (values / scale).transpose(1, 2).half().contiguous()
                _check_finite(half, rows, particles)
                records = half.cpu().numpy().reshape(-1).view(np.uint8).data
                checksum = zlib.crc32(records, checksum)
                handle.write(records)
            header = StoreHeader(key, len(images), len(plane), scale or 1.0, checksum)
            handle.seek(0)
            handle.write(header.pack())
    return ParticleStore(path, header)


def _transforms(
    images: ImageSet, plane: HalfPlane, shifts_px: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and Fourier pixels (B, 2, M) of all images."""
    for rows, pixels in read_ahead(torch.arange(len(images)).split(images.batch), images.read):
        values = plane.transform(pixels.to(images.device))
        if shifts_px is not None:
            values = images.mended(values, rows, plane)
            values = complex_product(values, plane.phases(shifts_px[rows].to(images.device)))
        yield rows, values


def _usable(path: Path, key: str) -> StoreHeader | None:
    """Header of a store that is whole and of this key."""
    try:
        with open(path, "rb") as handle:
            found: dict[str, Any] = json.loads(handle.read(_HEADER))
            if found.pop("format") != _FORMAT or found.get("key") != key:
                return None
            header = StoreHeader(**found)
            checksum = 0
            while chunk := handle.read(_CHUNK):
                checksum = zlib.crc32(chunk, checksum)
            size = handle.tell()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        log.warning("%s cannot be read; it is made again", path)
        return None
    if size != _HEADER + header.count * header.record_bytes or checksum != header.checksum:
        log.warning("%s is damaged; it is made again", path)
        return None
    return header


def _power_of_two(values: Tensor) -> float:
    """Near the deviation of values: dividing by it loses nothing, and float16 holds images of any unit."""
    deviation = float(values.square().mean().sqrt())
    return 2.0 ** round(float(np.log2(deviation))) if 0 < deviation < float("inf") else 1.0


def _check_finite(values: Tensor, rows: Tensor, particles: Particles) -> None:
    finite = torch.isfinite(values).flatten(1).all(1).cpu()
    if not bool(finite.all()):
        bad = int(rows[~finite][0])
        raise EmflowError(
            f"Particle {bad + 1} ({particles.table['rlnImageName'].iloc[bad]}) holds values that are not finite, or "
            "tens of thousands of times those of the first particles. Remove it from the table, or extract the "
            "particles again."
        )

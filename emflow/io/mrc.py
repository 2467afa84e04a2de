"""MRC images, stacks and maps: read with readable errors, write atomically and without timestamps."""

from __future__ import annotations

import errno
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np

from emflow.io.atomic import atomic_path
from emflow.step import EmflowError

RESTORED_LABEL = "emflow: restored pixels, not for reconstruction"
"""Label of every file whose pixels were denoised or otherwise restored (DESIGN.md, taint)."""
UNRESTORED_LABEL = "emflow: made from unrestored pixels"
"""Label of half maps whose origin is known to be clean; a file with neither label is of unknown origin."""
CONTROL_LABEL = "emflow: noise control, phases randomised, not data"
"""Label of stacks whose fine detail was replaced by noise, and of maps made from them."""

NOT_THE_FILES_FAULT = (
    errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN,
)  # fmt: skip
"""Errors that say nothing of the file that was to be read: it is not set aside for them."""


@dataclass(frozen=True)
class MrcHeader:
    """What the header says; its pixel size is reported, never trusted over the configuration."""

    shape: tuple[int, ...]
    mode: int
    voxel_size_angstrom: float
    origin_angstrom: tuple[float, float, float]
    """x, y, z of the first voxel: the header's origin, or where that is zero its start indices times the voxel."""
    labels: tuple[str, ...]
    voxel_angstrom: tuple[float, float, float]
    """Distances of voxels along z, y, x."""

    @property
    def restored(self) -> bool:
        """Whether the file carries the mark of restored pixels."""
        return RESTORED_LABEL in self.labels

    @property
    def control(self) -> bool:
        """Whether the file carries the mark of a noise control."""
        return CONTROL_LABEL in self.labels

    @property
    def unrestored(self) -> bool:
        """Whether the file says that its pixels come from unrestored images."""
        return UNRESTORED_LABEL in self.labels


def _open(path: Path) -> mrcfile.mrcfile.MrcFile | mrcfile.mrcmemmap.MrcMemmap:
    if path.is_dir():
        raise EmflowError(f"{path}: a folder; expected an MRC file.")
    try:
        size = path.stat().st_size
        if size < 1024:
            what = "an empty file" if size == 0 else f"{size} bytes, shorter than an MRC header (1024)"
            raise EmflowError(f"{path}: {what}; it was cut short.")
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # mrcfile warns where it guesses
            warnings.filterwarnings("ignore", message=".*larger than expected")  # some programs pad
            mrc = mrcfile.mmap(path, mode="r", permissive=False)
    except FileNotFoundError:
        raise EmflowError(f"{path}: no such file.") from None
    except PermissionError:
        raise EmflowError(f"{path}: may not be read (permission denied).") from None
    except (ValueError, RuntimeWarning, OSError) as error:
        if isinstance(error, OSError) and error.errno in NOT_THE_FILES_FAULT:
            raise
        raise EmflowError(
            f"{path}: not a readable MRC file ({error}). It may be truncated or another format."
        ) from None
    if mrc.data is None or mrc.data.size == 0:
        raise EmflowError(f"{path}: its header tells of no pixels; it is damaged.")
    if np.iscomplexobj(mrc.data):
        mode = int(mrc.header.mode)
        raise EmflowError(f"{path}: holds complex values (mode {mode}); expected real pixels.")
    return mrc


def _origin(mrc: mrcfile.mrcfile.MrcFile | mrcfile.mrcmemmap.MrcMemmap) -> tuple[float, float, float]:
    """Place of the first voxel, ångström: programs of cryo-EM write the origin, those of crystallography the start."""
    header, voxel = mrc.header, mrc.voxel_size
    x, y, z = (float(header.origin[axis]) for axis in "xyz")
    if x or y or z:
        return x, y, z
    return tuple(float(header[f"n{axis}start"]) * float(voxel[axis]) for axis in "xyz")  # type: ignore[return-value]


def _shape(path: str | os.PathLike[str], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the pixels: a stack of one image (.mrcs), which a header cannot tell from an image, keeps three axes."""
    whole = (1, *shape) if len(shape) == 2 and str(path).endswith(".mrcs") else shape
    return tuple(int(n) for n in whole)


def read_header(path: str | os.PathLike[str]) -> MrcHeader:
    """Read the header alone (the pixels are mapped, not read)."""
    with _open(Path(path)) as mrc:
        header = mrc.header
        labels = tuple(str(label, "latin-1").strip() for label in header.label[: int(header.nlabl)].tolist())
        return MrcHeader(
            shape=_shape(path, mrc.data.shape),
            mode=int(header.mode),
            voxel_size_angstrom=float(mrc.voxel_size.x),
            origin_angstrom=_origin(mrc),
            labels=labels,
            voxel_angstrom=(float(mrc.voxel_size.z), float(mrc.voxel_size.y), float(mrc.voxel_size.x)),
        )


def read_mrc(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image (y, x), stack (n, y, x) or map (z, y, x) as float32.

    Modes 0, 1, 2, 6 and 12; a single image may be stored as a stack of one.

    Raises
    ------
    EmflowError
        Missing, truncated, not MRC, or complex.
    """
    with _open(Path(path)) as mrc:
        return np.array(mrc.data, dtype=np.float32).reshape(_shape(path, mrc.data.shape))


def map_mrc(path: str | os.PathLike[str]) -> np.ndarray:
    """Memory-map the pixels in their stored type: nothing is read until it is touched."""
    pixels = _open(Path(path)).data
    return pixels.reshape(_shape(path, pixels.shape))


def write_mrc(
    path: str | os.PathLike[str],
    data: np.ndarray,
    voxel_size_angstrom: float,
    *,
    labels: tuple[str, ...] = (),
    half_precision: bool = False,
) -> None:
    """Write an image, stack or map atomically, mode 2 (mode 12 for emflow's own caches).

    The extension decides what three dimensions mean: ``.mrcs`` is a stack of images, ``.mrc`` a map.
    """
    stack = str(path).endswith(".mrcs")
    pixels = np.ascontiguousarray(data, dtype=np.float16 if half_precision else np.float32)
    with atomic_path(path) as temporary, mrcfile.new(temporary, overwrite=True) as mrc:
        mrc.set_data(pixels)
        if stack and pixels.ndim == 3:
            mrc.set_image_stack()
        mrc.voxel_size = voxel_size_angstrom
        mrc.header.label = b""  # mrcfile writes the time here
        mrc.header.nlabl = len(labels)
        for i, label in enumerate(labels):
            mrc.header.label[i] = label[:80].encode("latin-1", "replace")

"""Small sessions: micrographs of noise with sparse dark blobs, and the ways in which files go bad."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from scipy import ndimage

from emflow.io.mrc import write_mrc

PIXEL = 3.0


def blobs(seed: int, size: int = 256, sign: float = -1.0, snr: float = 0.3, count: int = 20) -> np.ndarray:
    """Noise with blobs of a few ångström grouped in particles of about 120 Å."""
    rng = np.random.default_rng(seed)
    image = np.zeros((size, size), np.float32)
    centres = rng.uniform(0, size, (count, 1, 2)) + rng.normal(0, 8, (count, 25, 2))
    places = centres.reshape(-1, 2).astype(int)
    places = places[((places >= 0) & (places < size)).all(1)]
    np.add.at(image, (places[:, 0], places[:, 1]), sign)
    image = ndimage.gaussian_filter(image, 1.5)
    image *= np.sqrt(snr) / image.std()
    return (image + rng.standard_normal(image.shape) + 10).astype(np.float32)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Twelve sound micrographs, named so that bad ones can come between them."""
    folder = tmp_path / "good"
    folder.mkdir()
    for i in range(12):
        write_mrc(folder / f"mic_{i:02d}.mrc", blobs(i), PIXEL)
    return folder


def poke(source: Path, path: Path, value: float, count: int) -> None:
    """Copy a file with its first pixels set to a value, past all checks of the writer."""
    content = source.read_bytes()
    pixels = np.frombuffer(content[1024:], "<f4").copy()
    pixels[:count] = value
    path.write_bytes(content[:1024] + pixels.tobytes())


@pytest.fixture
def spoil() -> Callable[[Path, Path], dict[str, str]]:
    """Put bad files among good ones; returns file name → words of the reason."""

    def spoil_folder(source: Path, folder: Path) -> dict[str, str]:
        shutil.copytree(source, folder)
        whole = (source / "mic_03.mrc").read_bytes()
        (folder / "mic_00a_truncated.mrc").write_bytes(whole[: len(whole) // 2])
        (folder / "aaa_empty.mrc").write_bytes(b"")
        poke(source / "mic_01.mrc", folder / "mic_01a_nan.mrc", np.nan, 256 * 256)
        poke(source / "mic_01.mrc", folder / "mic_01b_inf.mrc", np.inf, 1)
        write_mrc(folder / "mic_02a_constant.mrc", np.full((256, 256), 5.0), PIXEL)
        write_mrc(folder / "mic_04a_shape.mrc", blobs(98, size=200), PIXEL)
        write_mrc(folder / "mic_04b_pixel.mrc", blobs(97), 2 * PIXEL)
        shutil.copyfile(source / "mic_05.mrc", folder / "aab_copy.mrc")
        half = blobs(96)
        half[128:] = 0
        write_mrc(folder / "mic_06a_half.mrc", half, PIXEL)
        with mrcfile.new(folder / "mic_07a_complex.mrc") as mrc:
            mrc.set_data(np.zeros((256, 256), np.complex64))
        return {
            "mic_00a_truncated.mrc": "truncated",
            "aaa_empty.mrc": "empty file",
            "mic_01a_nan.mrc": "all pixels are NaN",
            "mic_01b_inf.mrc": "1 of 65536 pixels are NaN or infinite",
            "mic_02a_constant.mrc": "constant: every pixel is 5",
            "mic_04a_shape.mrc": "wrong shape: 200 × 200",
            "mic_04b_pixel.mrc": "wrong pixel size: its header says 6 Å",
            "aab_copy.mrc": "a copy of .*mic_05.mrc",
            "mic_06a_half.mrc": "50% of its rows",
            "mic_07a_complex.mrc": "complex values",
        }

    return spoil_folder

"""TIFF micrographs: types and compressions are read, broken files are said plainly."""

import errno
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile

from emflow.io.image import header_pixel_size, image_shape, is_restored, read_image
from emflow.step import EmflowError

PIXELS = np.random.default_rng(0).integers(0, 255, (64, 48))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float16])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_types_and_compressions(tmp_path: Path, dtype: type, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS.astype(dtype), compression=compression)
    found = read_image(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, PIXELS.astype(np.float32))
    assert image_shape(path) == (64, 48)
    assert header_pixel_size(path) is None
    assert not is_restored(path)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd"])
@pytest.mark.parametrize("keep", [0, 5, 100, 0.3, 0.9, -1])
def test_truncated_files_are_never_read(tmp_path: Path, compression: str | None, keep: float) -> None:
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, PIXELS.astype(np.float32), compression=compression)
    content = path.read_bytes()
    count = int(keep * len(content)) if 0 < keep < 1 else int(keep)
    path.write_bytes(content[:count])
    with pytest.raises(EmflowError, match=r"cut\.tif"):
        read_image(path)


def test_damaged_pixels_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.tif"
    tifffile.imwrite(path, PIXELS.astype(np.uint8), compression="zlib")
    content = bytearray(path.read_bytes())
    offset = content.index(b"\x78")  # the zlib stream
    content[offset + 2 : offset + 200] = bytes(198)
    path.write_bytes(content)
    with pytest.raises(EmflowError, match="not a readable TIFF"):
        read_image(path)


def test_what_is_no_micrograph(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "movie.tif", np.zeros((5, 8, 8), np.uint8), photometric="minisblack")
    tifffile.imwrite(tmp_path / "colour.tif", np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(tmp_path / "complex.tif", np.zeros((8, 8), np.complex64))
    (tmp_path / "text.tif").write_text("hello")
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "a.dm4").write_bytes(b"x")
    for name, words in {
        "movie.tif": "Movies need motion correction",
        "colour.tif": "expected one image",
        "complex.tif": "whole or real numbers",
        "text.tif": "not a readable TIFF",
        "folder.tif": "a folder",
        "none.tif": "no such file",
        "a.dm4": "unknown image format '.dm4'",
    }.items():
        with pytest.raises(EmflowError, match=words) as error:
            read_image(tmp_path / name)
        assert name in str(error.value)


def test_real_micrographs_are_read(real_data: Path) -> None:
    image = read_image(real_data / "apoferritin" / "May08_03.05.02.tif")
    assert image.shape == (1200, 1240)
    assert 2 < image.std() < 3
    assert read_image(real_data / "ribosome" / "10028_061.tif").shape == (1024, 1024)


@pytest.mark.parametrize("suffix", ["mrc", "tif"])
def test_what_is_no_fault_of_the_file_is_not_blamed_on_it(tmp_path, monkeypatch, suffix):
    """Too little memory or a stale handle would otherwise set an innocent micrograph aside."""
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(bytes(5000))

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(mrcfile, "mmap", fails)
    monkeypatch.setattr(tifffile, "TiffFile", fails)
    with pytest.raises(OSError, match="allocate"):
        read_image(path)

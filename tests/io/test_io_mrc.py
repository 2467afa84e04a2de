"""MRC files: what is written is read back, what is broken is said plainly, equal data gives equal bytes."""

import gc
import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from emflow.io.image import header_pixel_size, image_shape, is_restored, read_image
from emflow.io.mrc import RESTORED_LABEL, map_mrc, read_header, read_mrc, write_mrc
from emflow.step import EmflowError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("mode", "dtype"), [(0, np.int8), (1, np.int16), (2, np.float32), (6, np.uint16), (12, np.float16)]
)
def test_all_real_modes_are_read_as_float32(tmp_path: Path, mode: int, dtype: type) -> None:
    pixels = RNG.integers(0, 100, (5, 7)).astype(dtype)
    with mrcfile.new(tmp_path / "a.mrc") as mrc:
        mrc.set_data(pixels)
        assert mrc.header.mode == mode
    found = read_mrc(tmp_path / "a.mrc")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, pixels.astype(np.float32))
    assert image_shape(tmp_path / "a.mrc") == (5, 7)


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    pixels = np.arange(35, dtype=">f4").reshape(5, 7)
    write_mrc(tmp_path / "a.mrc", pixels.astype("<f4"), 2.0)
    header = bytearray((tmp_path / "a.mrc").read_bytes()[:1024])
    words = np.frombuffer(bytes(header[:208]), "<u4").astype(">u4").tobytes()
    swapped = words + b"MAP " + b"\x11\x11\0\0" + struct.pack(">fi", 1.0, 0) + bytes(header[224:])
    (tmp_path / "b.mrc").write_bytes(swapped + pixels.tobytes())
    np.testing.assert_array_equal(read_mrc(tmp_path / "b.mrc"), pixels.astype(np.float32))


def test_extension_decides_between_stack_and_map(tmp_path: Path) -> None:
    data = RNG.normal(size=(3, 4, 4)).astype(np.float32)
    for name, stack in (("a.mrcs", True), ("a.mrc", False)):
        write_mrc(tmp_path / name, data, 1.7)
        with mrcfile.open(tmp_path / name) as mrc:
            assert bool(mrc.is_image_stack()) is stack
            assert mrcfile.validate(tmp_path / name)
        np.testing.assert_array_equal(read_mrc(tmp_path / name), data)
        assert read_header(tmp_path / name).voxel_size_angstrom == pytest.approx(1.7)


def test_same_data_same_bytes_and_labels_without_time(tmp_path: Path) -> None:
    data = RNG.normal(size=(8, 8))
    for name in ("a.mrc", "b.mrc"):
        write_mrc(tmp_path / name, data, 1.0, labels=(RESTORED_LABEL,))
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes()
    header = read_header(tmp_path / "a.mrc")
    assert header.labels == (RESTORED_LABEL,)
    assert header.restored
    assert is_restored(tmp_path / "a.mrc")
    write_mrc(tmp_path / "c.mrc", data, 1.0)
    assert not is_restored(tmp_path / "c.mrc")


def test_half_precision_for_caches(tmp_path: Path) -> None:
    write_mrc(tmp_path / "a.mrcs", np.full((2, 4, 4), 0.1), 1.0, half_precision=True)
    assert read_header(tmp_path / "a.mrcs").mode == 12
    assert read_mrc(tmp_path / "a.mrcs")[0, 0, 0] == np.float32(np.float16(0.1))


def test_mapped_pixels_outlive_the_file_object(tmp_path: Path) -> None:
    data = RNG.normal(size=(3, 4, 4)).astype(np.float32)
    write_mrc(tmp_path / "a.mrcs", data, 1.0)
    pixels = map_mrc(tmp_path / "a.mrcs")
    gc.collect()
    np.testing.assert_array_equal(pixels[2], data[2])
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0, 0] = 1


@pytest.mark.parametrize(("told", "pixel"), [(0.0, None), (1.0, None), (1.35, 1.35)])
def test_header_pixel_size_is_reported_where_it_says_something(
    tmp_path: Path, told: float, pixel: float | None
) -> None:
    write_mrc(tmp_path / "a.mrc", np.eye(4), told)
    assert header_pixel_size(tmp_path / "a.mrc") == (None if pixel is None else pytest.approx(pixel))


def sound(path: Path) -> bytes:
    write_mrc(path, RNG.normal(size=(16, 16)), 1.0)
    return path.read_bytes()


def test_every_broken_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    good = sound(tmp_path / "good.mrc")
    huge = struct.pack("<3i", 60000, 60000, 60000) + good[12:]
    nothing = struct.pack("<3i", 0, 0, 0) + good[12:]
    odd_mode = good[:12] + struct.pack("<i", 77) + good[16:]
    broken = {
        "empty": (b"", "empty file"),
        "header": (good[:500], "shorter than an MRC header"),
        "pixels": (good[:-100], "truncated"),
        "magic": (good[:208] + b"PAM " + good[212:], "not a readable MRC file"),
        "text": (b"hello " * 400, "not a readable MRC file"),
        "zeros": (bytes(4000), "not a readable MRC file"),
        "huge": (huge, "not a readable MRC file"),
        "nothing": (nothing, "damaged|not a readable"),
        "mode": (odd_mode, "not a readable MRC file"),
    }
    for name, (content, words) in broken.items():
        path = tmp_path / f"{name}.mrc"
        path.write_bytes(content)
        for read in (read_mrc, read_header, map_mrc, read_image, image_shape):
            with pytest.raises(EmflowError, match=words) as error:
                read(path)
            assert f"{name}.mrc" in str(error.value)


def test_missing_folder_complex_and_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EmflowError, match="no such file"):
        read_mrc(tmp_path / "none.mrc")
    (tmp_path / "folder.mrc").mkdir()
    with pytest.raises(EmflowError, match="a folder"):
        read_mrc(tmp_path / "folder.mrc")
    with mrcfile.new(tmp_path / "c.mrc") as mrc:
        mrc.set_data(np.zeros((4, 4), np.complex64))
    with pytest.raises(EmflowError, match=r"complex values \(mode 4\)"):
        read_mrc(tmp_path / "c.mrc")
    write_mrc(tmp_path / "v.mrc", np.zeros((3, 4, 5)), 1.0)
    for read in (read_image, image_shape):
        with pytest.raises(EmflowError, match=r"shape \(3, 4, 5\); expected one image"):
            read(tmp_path / "v.mrc")
    sound(tmp_path / "p.mrc")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(mrcfile, "mmap", refuse)
    with pytest.raises(EmflowError, match="permission denied"):
        read_mrc(tmp_path / "p.mrc")


def test_padding_behind_the_pixels_is_tolerated(tmp_path: Path) -> None:
    good = sound(tmp_path / "a.mrc")
    (tmp_path / "b.mrc").write_bytes(good + bytes(100))
    np.testing.assert_array_equal(read_mrc(tmp_path / "b.mrc"), read_mrc(tmp_path / "a.mrc"))


def test_stack_of_one_is_an_image(tmp_path: Path) -> None:
    write_mrc(tmp_path / "a.mrcs", np.zeros((1, 4, 5)), 1.0)
    assert read_image(tmp_path / "a.mrcs").shape == image_shape(tmp_path / "a.mrcs") == (4, 5)
    assert read_mrc(tmp_path / "a.mrcs").shape == map_mrc(tmp_path / "a.mrcs").shape == (1, 4, 5)

"""Dark or bright protein: right on simulated and real micrographs, unknown on noise."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from emflow.io.image import read_image
from emflow.session.config import SessionCheck
from emflow.session.contrast import BANDS_ANGSTROM, decide, skewness

from .conftest import PIXEL, blobs

LIMIT = SessionCheck().contrast_significance


def judge(images: list[np.ndarray], pixel: float = PIXEL) -> tuple[str, float]:
    values, errors = zip(*(skewness(image, pixel) for image in images), strict=True)
    return decide(values, errors, LIMIT)


@pytest.mark.parametrize(("sign", "answer"), [(-1.0, "dark"), (1.0, "bright")])
def test_blobs_tell_their_sign(sign: float, answer: str) -> None:
    assert judge([blobs(i, 512, sign, snr=0.1, count=80) for i in range(6)])[0] == answer


def test_inverting_the_micrographs_inverts_the_answer() -> None:
    images = [blobs(i, 384) for i in range(4)]
    dark, bright = judge(images), judge([-image for image in images])
    assert (dark[0], bright[0]) == ("dark", "bright")
    assert dark[1] == pytest.approx(-bright[1], rel=1e-3)


@pytest.mark.parametrize("smooth", [0.0, 2.0])
def test_noise_is_unknown_and_the_error_is_right(smooth: float) -> None:
    rng = np.random.default_rng(1)
    found = [
        skewness(ndimage.gaussian_filter(rng.standard_normal((256, 256)), smooth).astype(np.float32), PIXEL)
        for _ in range(60)
    ]
    values, errors = (np.array(part) for part in zip(*found, strict=True))
    if not smooth:
        assert (values / errors).std(axis=0) == pytest.approx(np.ones(len(BANDS_ANGSTROM)), abs=0.35)
    for i in range(0, 60, 10):
        assert decide(values[i : i + 10], errors[i : i + 10], LIMIT)[0] == "unknown"


def test_shot_noise_is_not_bright_protein() -> None:
    """Counts are skewed to the bright side; at 10 electrons per square ångström this must not decide."""
    rng = np.random.default_rng(2)
    images = [rng.poisson(10 * PIXEL**2, (512, 512)).astype(np.float32) for _ in range(20)]
    assert judge(images)[0] == "unknown"


def test_ice_gradients_and_hot_pixels_do_not_decide() -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:384, :384] / 384
    images = []
    for _ in range(8):
        image = rng.standard_normal((384, 384)) + 8 * (x - 0.5) ** 2 + 3 * y
        image[rng.integers(0, 384, 20), rng.integers(0, 384, 20)] = 60
        images.append(image.astype(np.float32))
    assert judge(images)[0] == "unknown"


def test_bands_that_contradict_each_other_are_unknown() -> None:
    errors = [[0.01] * 6] * 5
    assert decide([[-0.5, -0.4, -0.3, 0.0, 0.0, 0.0]] * 5, errors, LIMIT)[0] == "dark"
    assert decide([[-0.5, -0.4, -0.3, 0.0, 0.4, 0.4]] * 5, errors, LIMIT)[0] == "unknown"
    assert decide([], [], LIMIT) == ("unknown", 0.0)


def test_images_too_small_to_tell() -> None:
    assert judge([np.eye(16, dtype=np.float32)] * 5)[0] == "unknown"


@pytest.mark.parametrize(
    ("pattern", "pixel", "count"), [("apoferritin/*.tif", 1.5, 12), ("ribosome/*.tif", 5.36, 2)]
)
def test_real_protein_is_dark(real_data: Path, pattern: str, pixel: float, count: int) -> None:
    images = [read_image(path) for path in sorted(real_data.glob(pattern))]
    assert len(images) == count
    assert judge(images, pixel)[0] == "dark"
    assert judge([-image for image in images], pixel)[0] == "bright"
    singly = [judge([image], pixel)[0] for image in images]  # one alone may be unclear, but never bright
    assert set(singly) <= {"dark", "unknown"}
    assert singly.count("dark") >= 0.75 * count

"""The assessment of micrographs: faults planted one by one, clean ones, noise, real ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from emflow.io.image import read_image
from emflow.io.mrc import write_mrc
from emflow.io.star import read_star, write_star
from emflow.pick import command
from emflow.pick.assess import Signs, assess
from emflow.pick.config import PickAssess
from emflow.pick.judge import judge, usual_mean
from emflow.session.command import select
from emflow.session.config import SessionSelect
from emflow.step import EmflowError

SIDE, PIXEL, DOSE = 640, 1.4, 60.0
Y, X = np.mgrid[:SIDE, :SIDE] / SIDE


def frequencies(pixel: float) -> tuple[np.ndarray, np.ndarray]:
    return np.fft.fftfreq(SIDE, pixel)[:, None], np.fft.rfftfreq(SIDE, pixel)[None]


def filtered(image: np.ndarray, transfer: np.ndarray) -> np.ndarray:
    return np.fft.irfft2(np.fft.rfft2(image) * transfer, s=image.shape)


def specimen(seed: int) -> np.ndarray:
    """Blobs of 130 Å with fine detail, seen through a CTF of 1.8 µm; deviation 1."""
    rng = np.random.default_rng(seed)
    fy, fx = frequencies(PIXEL)
    s = np.hypot(fy, fx)
    seeds = (rng.random((SIDE, SIDE)) < 60 / SIDE**2).astype(float)
    ctf = np.sin(math.pi * 0.0197 * 1.8e4 * s**2 + 0.07) * np.exp(-30 * s**2)
    body = filtered(seeds, np.exp(-2 * (math.pi * 30 * s) ** 2) + 0.05 * np.exp(-2 * (math.pi * 3 * s) ** 2))
    seen = filtered(body * (1 + 0.5 * rng.normal(size=body.shape)), ctf)
    return np.asarray(-seen / seen.std())


def counted(contrast: np.ndarray, transmission: np.ndarray | float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, 1])
    return rng.poisson(DOSE * transmission * np.clip(1 + 0.08 * contrast, 0.05, None)).astype(np.float32)


def reflections(seed: int) -> np.ndarray:
    fy, fx = frequencies(PIXEL)
    s = np.hypot(fy, fx)
    amplitude = sum(np.exp(-0.5 * ((s - 1 / d) / 0.004) ** 2) for d in (3.9, 3.67, 3.44))
    noise = filtered(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), np.asarray(amplitude))
    return np.asarray(noise / noise.std())


def drifted(contrast: np.ndarray, angstrom: float) -> np.ndarray:
    fy, fx = frequencies(PIXEL)
    return filtered(contrast, np.sinc(angstrom * (0.8 * fx + 0.6 * fy)))


FAULTS = {
    "clean": lambda c: counted(c),
    "empty": lambda c: counted(0 * c),
    "crystalline ice": lambda c: counted(c) + 0.3 * math.sqrt(DOSE) * reflections(2).astype(np.float32),
    "drift": lambda c: counted(drifted(c, 25)),
    "opaque": lambda c: counted(c, np.where(X + 0.3 * Y > 0.95, 0.15, 1.0)),
    "gradient": lambda c: counted(c, 1 - 0.5 * X),
}


def signs_of(image: np.ndarray, pixel: float = PIXEL) -> Signs:
    return assess(torch.from_numpy(image), pixel, True)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named_and_no_other(fault: str) -> None:
    for seed in (1, 2):
        found = judge(signs_of(FAULTS[fault](specimen(seed))), math.nan, None, PickAssess())
        words = [one.reason for one in found]
        if fault == "clean":
            assert words == []
        else:
            assert any(fault in reason for reason in words), words
        if fault != "opaque":  # a bar's edge is a gradient too
            assert len(words) <= 1


def test_an_image_of_another_scale_and_sign_is_judged_alike() -> None:
    image = FAULTS["drift"](specimen(1))
    first, second = signs_of(image), signs_of(7 - 0.03 * image)
    for name in ("signal", "ice_ring", "falloff", "gradient", "opaque"):
        assert getattr(second, name) == pytest.approx(getattr(first, name), rel=1e-3, abs=1e-4), name


def test_what_coarse_pixels_cannot_tell_is_not_told() -> None:
    coarse = signs_of(FAULTS["clean"](specimen(1)), 8.0)
    assert math.isnan(coarse.signal)
    assert math.isnan(coarse.ice_ring)
    assert math.isnan(coarse.falloff)
    assert math.isnan(coarse.masked)
    assert judge(coarse, math.nan, None, PickAssess()) == []


def test_rings_and_thickness_are_judged_where_they_are_known() -> None:
    good = signs_of(FAULTS["clean"](specimen(1)))
    usual = usual_mean(np.full(5, good.mean), np.full(5, good.deviation))
    assert usual == good.mean
    assert judge(good, usual, True, PickAssess()) == []
    assert "Thon rings" in judge(good, usual, False, PickAssess())[0].reason
    assert judge(good, usual, False, PickAssess(require_rings=False)) == []
    assert "dim" in judge(good, 2 * usual, None, PickAssess())[0].reason
    assert "bright" in judge(good, usual / 2, None, PickAssess())[0].reason
    assert math.isnan(usual_mean(np.full(4, 60.0), np.full(4, 8.0)))  # too few
    assert math.isnan(usual_mean(np.full(9, 16.0), np.full(9, 0.5)))  # no counts
    assert math.isnan(usual_mean(np.array([1.0, -1, 2, 0, 1]), np.ones(5)))


def test_small_and_constant_images_are_refused() -> None:
    with pytest.raises(EmflowError, match="at least 512"):
        assess(torch.rand(300, 900), 1.0, True)
    with pytest.raises(EmflowError, match="constant"):
        assess(torch.ones(600, 600), 1.0, True)


def test_the_command_feeds_the_quality_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("clean", "empty"):
        write_mrc(Path(f"in/{name}.mrc"), FAULTS[name](specimen(3)), PIXEL)
    write_mrc(Path("in/small.mrc"), counted(specimen(3))[:200], PIXEL)
    command.assess(Path("in"), Path("assessed.star"), cfg=PickAssess(pixel_size_angstrom=PIXEL))
    tables = read_star("assessed.star")
    good = dict(
        zip(tables["micrographs"]["rlnMicrographName"], tables["micrographs"]["emflowGood"], strict=True)
    )
    assert good == {"in/clean.mrc": "1", "in/empty.mrc": "0"}
    assert list(tables["set_aside"]["rlnMicrographName"]) == ["in/small.mrc"]
    everything = read_star("assessed.star")
    ids = ["rlnMicrographName", "emflowMicrographId"]
    names = [*everything["micrographs"][ids].values.tolist(), everything["set_aside"][ids].iloc[0].tolist()]
    plain = everything["micrographs"][ids].iloc[:0]
    for row, values in enumerate(names):
        plain.loc[row] = values
    for step in ("check", "ctf", "pick"):
        write_star(Path(f"{step}.star"), {"optics": tables["optics"], "micrographs": plain})
    inputs = (Path("check.star"), Path("ctf.star"), Path("pick.star"), Path("q.star"))

    def fates(assessment: str) -> dict[str, str]:
        select(*inputs, assessed=Path("assessed.star"), cfg=SessionSelect(assessment=assessment))
        quality = read_star("q.star")["micrographs"]
        assert ("emflowSignal" in quality) == (assessment != "off")
        rejected = quality[quality["emflowAccepted"] == "0"]
        return dict(zip(rejected["rlnMicrographName"], rejected["emflowReason"], strict=True))

    assert fates("off") == {}
    assert fates("tell") == {}
    found = fates("reject")  # the one that could not be judged stays
    assert list(found) == ["in/empty.mrc"]
    assert found["in/empty.mrc"].startswith("empty")
    with pytest.raises(EmflowError, match="--assessed"):
        select(*inputs, cfg=SessionSelect(assessment="reject"))


def test_real_micrographs_are_good_but_for_those_that_drifted(real_data: Path) -> None:
    drift = {}
    for pixel, diameter, pattern in ((1.5, 130.0, "apoferritin/*.tif"), (5.36, 285.0, "ribosome/*.tif")):
        for path in sorted(real_data.glob(pattern)):
            signs = assess(torch.from_numpy(read_image(path)), pixel, True, diameter)
            for one in judge(signs, math.nan, None, PickAssess()):
                assert one.reason.startswith("drift"), (path.name, one.reason)
                drift[path.stem[-8:]] = signs.falloff
    # not motion-corrected; Thon rings of these fade along one direction, as the eye sees in their spectra
    assert set(drift) <= {"03.05.02", "07.10.35", "07.13.35", "05.24.39"}
    assert "03.05.02" in drift

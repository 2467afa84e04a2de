"""The sharpened map: a planted B factor, RELION's own, and what is written."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.fsc import radial_average, shell_index
from emflow.em.masks import soft_sphere
from emflow.em.sharpen import sharpen
from emflow.io.mrc import UNRESTORED_LABEL, read_header, read_mrc, write_mrc
from emflow.io.star import floats, read_star
from emflow.validate.command import maps
from emflow.validate.config import ValidateMaps

N, VOXEL = 64, 2.0


def blurred(bfactor: float) -> Tensor:
    """White spectrum with a fall-off of exp(−B/4·s²)."""
    frequency = shell_index(N).float() / (N * VOXEL)
    spectrum = torch.fft.rfftn(torch.randn(N, N, N, generator=generator(3)))
    return torch.fft.irfftn(spectrum * torch.exp(-bfactor / 4 * frequency**2), s=(N, N, N))


def halves(bfactor: float = 300.0, crossing: int = 20) -> tuple[Tensor, Tensor]:
    """A blurred particle in white noise, whose FSC falls at a shell."""
    signal = blurred(bfactor) * soft_sphere(N, 16, 4)
    at = shell_index(N) == crossing
    level = float((torch.fft.rfftn(signal)[at].abs().square().mean() * 6 / N**3).sqrt())
    one, two = (signal + level * torch.randn(N, N, N, generator=generator(4, k)) for k in (1, 2))
    return one, two


def write_pair(folder: Path, *labels: str) -> list[Path]:
    paths = [folder / "half1.mrc", folder / "half2.mrc", folder / "mask.mrc"]
    for path, volume in zip(paths, (*halves(), soft_sphere(N, 20, 6)), strict=True):
        write_mrc(path, volume.numpy(), VOXEL, labels=labels)
    return paths


def test_a_planted_b_factor_is_found_and_undone() -> None:
    whole = torch.ones(N // 2 + 1).double()
    made = sharpen(blurred(80), whole, 2 * VOXEL, VOXEL, ValidateMaps())
    assert made.line is not None
    assert made.bfactor_angstrom2 == pytest.approx(-80, rel=0.05)
    assert made.line.correlation > 0.99
    torch.testing.assert_close(made.original, made.weighted)
    flat = made.sharpened[8:-1]
    assert float(flat.max() - flat.min()) < 0.15
    # a line through exactly these points says what was removed
    torch.testing.assert_close(
        made.sharpened[8:-1],
        made.weighted[8:-1] - made.line.slope * made.inverse_square[8:-1],
        atol=0.02,
        rtol=0,
    )


def test_the_map_ends_at_the_low_pass_and_weights_follow_the_fsc() -> None:
    curve = torch.full((N // 2 + 1,), 0.5).double()
    curve[25:] = 0
    cfg = ValidateMaps(bfactor_angstrom2=0, lowpass_angstrom=N * VOXEL / 20)
    volume = blurred(10)
    made = sharpen(volume, curve, 8.0, VOXEL, cfg)
    assert made.line is None
    index = shell_index(N)
    before, after = (radial_average(torch.fft.rfftn(v).abs(), index) for v in (volume, made.volume))
    torch.testing.assert_close(after[:19], before[:19] * (2 / 3) ** 0.5, rtol=1e-4, atol=1e-6)
    assert float(after[22:].max() / before[22:].max()) < 1e-5
    assert (made.weighted[25:] == -99).all()
    few = sharpen(volume, curve, 9.9, VOXEL, ValidateMaps())  # no three shells between 10 and 9.9 Å
    assert (few.bfactor_angstrom2, few.line) == (0.0, None)


def test_what_is_written(tmp_path: Path) -> None:
    one, two, mask = write_pair(tmp_path, UNRESTORED_LABEL)
    out = tmp_path / "out"
    maps(one, two, out, mask=mask)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["resolution_band_fine_angstrom"] <= metrics["resolution_interpolated_angstrom"]
    assert metrics["resolution_interpolated_angstrom"] <= metrics["resolution_band_coarse_angstrom"]
    assert metrics["resolution_one_bit_angstrom"] >= metrics["resolution_half_bit_angstrom"]
    assert metrics["resolution_tight_mask_angstrom"] <= metrics["resolution_unmasked_angstrom"]
    assert read_header(out / "postprocess.mrc").unrestored
    whole, masked = (read_mrc(out / f"{name}.mrc") for name in ("postprocess", "postprocess_masked"))
    np.testing.assert_allclose(masked, whole * read_mrc(mask), rtol=1e-5, atol=1e-6 * np.abs(whole).max())
    tables = read_star(out / "postprocess.star")
    assert set(tables) == {"general", "fsc", "guinier"}
    slope = floats(tables["general"], "rlnFittedSlopeGuinierPlot")[0]
    assert 4 * slope == pytest.approx(metrics["sharpening_bfactor_angstrom2"])
    points = ElementTree.parse(out / "fsc.xml").getroot().findall("coordinate")
    curve = floats(tables["fsc"], "rlnFourierShellCorrelationCorrected")
    assert [float(p.findtext("y") or "nan") for p in points] == pytest.approx(curve.tolist(), abs=1e-6)
    x = [float(p.findtext("x") or "nan") for p in points]
    assert x == pytest.approx((np.arange(N // 2 + 1) / (N * VOXEL)).tolist(), abs=1e-6)
    # a later run without a resolution leaves no sharpened map behind, and no mark where there is none
    for k, path in ((1, one), (2, two)):
        write_mrc(path, torch.randn(N, N, N, generator=generator(9, k)).numpy(), VOXEL)
    maps(one, two, out, mask=mask)
    assert not list(out.glob("postprocess*"))
    assert json.loads((out / "metrics.json").read_text())["sharpening_bfactor_angstrom2"] is None


@pytest.mark.skipif(shutil.which("relion_postprocess") is None, reason="relion_postprocess is not installed")
def test_relion_says_the_same(tmp_path: Path) -> None:
    """Curves to 5e-5; with RELION's own corrected curve (its random phases are its own) also B and map."""
    one, two, mask = write_pair(tmp_path)
    out = tmp_path / "out"
    maps(one, two, out, mask=mask)
    resolution = json.loads((out / "metrics.json").read_text())["resolution_angstrom"]
    (tmp_path / "relion").mkdir()
    files = ["--i", "half1.mrc", "--i2", "half2.mrc", "--mask", "mask.mrc", "--angpix", str(VOXEL)]
    fit = [
        "--auto_bfac",
        "--autob_lowres",
        "10",
        "--autob_highres",
        f"{resolution - 1e-4:.5f}",
        "--low_pass",
        "-1",
    ]
    # it ends with an error where ghostscript is missing, after everything is written
    subprocess.run(
        ["relion_postprocess", *files, *fit, "--o", "relion/postprocess"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    theirs = read_star(tmp_path / "relion" / "postprocess.star")
    ours = read_star(out / "postprocess.star")
    for name in ("FourierShellCorrelationUnmaskedMaps", "FourierShellCorrelationMaskedMaps"):
        np.testing.assert_allclose(
            floats(ours["fsc"], f"rln{name}"), floats(theirs["fsc"], f"rln{name}"), atol=5e-5
        )
    told = floats(theirs["fsc"], "rlnFourierShellCorrelationCorrected")
    assert np.abs(told - floats(ours["fsc"], "rlnFourierShellCorrelationCorrected")).max() < 0.12
    assert floats(theirs["general"], "rlnFinalResolution")[0] == pytest.approx(resolution, rel=0.06)
    mean = torch.from_numpy((read_mrc(one) + read_mrc(two)) / 2)
    theirs_resolution = float(floats(theirs["general"], "rlnFinalResolution")[0])
    cfg = ValidateMaps(bfactor_fit_to_angstrom=resolution)
    made = sharpen(mean, torch.from_numpy(told), theirs_resolution, VOXEL, cfg)
    assert made.bfactor_angstrom2 == pytest.approx(
        float(floats(theirs["general"], "rlnBfactorUsedForSharpening")[0]), rel=1e-3
    )
    volume = read_mrc(tmp_path / "relion" / "postprocess.mrc")
    np.testing.assert_allclose(made.volume.numpy(), volume, atol=2e-3 * np.abs(volume).max())

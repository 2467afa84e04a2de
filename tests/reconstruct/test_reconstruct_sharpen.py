"""Maps for the eye: a known fall-off is undone, a smeared part is filtered as far as it goes, noise stays empty."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.bands import radial_frequency
from emflow.em.local_filter import blend_bands
from emflow.em.masks import soft_sphere
from emflow.em.sharpen import fsc_weight, sharpen
from emflow.io.mrc import RESTORED_LABEL, UNRESTORED_LABEL, read_header, read_mrc, write_mrc
from emflow.io.star import floats, read_star, write_star
from emflow.reconstruct.command_sharpen import sharpen as command
from emflow.reconstruct.config import ReconstructSharpen
from emflow.reconstruct.sharpen import sharpen_halves
from emflow.step import EmflowError, Run

N, VOXEL, DIAMETER = 64, 1.5, 60.0
RUN = Run(threads=1, device="cpu")


def noise(seed: int) -> Tensor:
    return torch.randn(N, N, N, generator=generator(seed))


def fallen(volume: Tensor, bfactor: float) -> Tensor:
    """Map whose amplitudes fall off by exp(−B/4·s²)."""
    s2 = radial_frequency(N, N * VOXEL).square()
    return torch.fft.irfftn(torch.fft.rfftn(volume) * torch.exp(-bfactor / 4 * s2), s=(N,) * 3)


def pair(truth: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Two half maps: the truth in white noise of a level relative to its deviation within the particle."""
    deviation = level * float(truth[soft_sphere(N, 16, 2) > 0.5].std())
    return truth + deviation * noise(1), truth + deviation * noise(2)


def particle(bfactor: float = 150.0) -> Tensor:
    return fallen(noise(9), bfactor) * soft_sphere(N, 18, 4)


def two_parts() -> tuple[Tensor, Tensor, Tensor]:
    """A rigid ball beside one whose motion blurs it, and the balls' masks."""
    left, right = (soft_sphere(N, 8, 4).roll(shift, 2) for shift in (-11, 11))
    sharp, blurred = fallen(noise(9), 60), fallen(noise(8), 900)
    return sharp / sharp.std() * left + blurred / blurred.std() * right, left, right


def correlation(a: Tensor, b: Tensor, mask: Tensor) -> float:
    a, b = a * mask, b * mask
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def write_folder(folder: Path, halves: tuple[Tensor, Tensor]) -> Path:
    folder.mkdir()
    for number, half in enumerate(halves, start=1):
        write_mrc(folder / f"half{number}.mrc", half.numpy(), VOXEL, labels=(UNRESTORED_LABEL,))
    write_mrc(folder / "mask.mrc", soft_sphere(N, 22, 6).numpy(), VOXEL)
    return folder


def test_a_known_fall_off_is_found_within_five_percent(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "refine", pair(particle(150), 0.3))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    out = tmp_path / "sharpened"
    command(folder, out, cfg=ReconstructSharpen(diameter_angstrom=DIAMETER), run=RUN)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["sharpening_bfactor_angstrom2"] == pytest.approx(-150, rel=0.05)
    assert metrics["bfactor_fitted"] == 1
    verdicts = json.loads((out / "verdicts.json").read_text())
    assert [row["verdict"] for row in verdicts] == ["pass", "pass"]
    assert read_header(out / "map_sharpened.mrc").labels == (UNRESTORED_LABEL,)
    assert read_header(out / "map_local.mrc").labels == (RESTORED_LABEL,)
    table = read_star(out / "sharpening.star")["guinier"]
    assert len(table) == N // 2 + 1
    assert floats(table, "rlnLogAmplitudesIntercept").std() == 0
    assert (out / "figures" / "guinier.png").stat().st_size > 10000
    assert (out / "figures" / "maps.png").stat().st_size > 10000
    # two files instead of the folder give the same map
    again = tmp_path / "again"
    cfg = ReconstructSharpen(diameter_angstrom=DIAMETER)
    command(folder / "half1.mrc", folder / "half2.mrc", again, cfg=cfg, run=RUN, mask=folder / "mask.mrc")
    assert (again / "map_local.mrc").read_bytes() == (out / "map_local.mrc").read_bytes()


def test_a_smeared_part_gains_by_its_own_filter_and_the_rigid_one_loses_nothing() -> None:
    truth, rigid, smeared = two_parts()
    one, two = pair(truth, 1.0)
    cfg = ReconstructSharpen(bfactor_angstrom2=0)
    made = sharpen_halves(one, two, VOXEL, DIAMETER, cfg, mask=soft_sphere(N, 24, 6))
    for part in (smeared, rigid):
        unexplained = [1 - correlation(volume, truth, part) for volume in (made.local, made.whole)]
        assert unexplained[0] < 0.7 * unexplained[1]
    assert made.resolution is not None
    there = [float(made.resolution.angstrom[mask > 0.9].median()) for mask in (rigid, smeared)]
    assert there[1] > 1.5 * there[0]


def test_noise_stays_empty(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "refine", (noise(1), noise(2)))
    out = tmp_path / "out"
    command(folder, out, cfg=ReconstructSharpen(diameter_angstrom=DIAMETER), run=RUN)
    for name in ("map_sharpened", "map_local", "local_resolution"):
        assert not read_mrc(out / f"{name}.mrc").any()
    assert json.loads((out / "metrics.json").read_text())["resolution_angstrom"] is None
    assert {row["verdict"] for row in json.loads((out / "verdicts.json").read_text())} == {"fail"}


def test_a_coarse_map_is_not_sharpened_and_says_so() -> None:
    one, two = pair(particle(900), 3.0)
    made = sharpen_halves(one, two, VOXEL, DIAMETER, ReconstructSharpen())
    assert made.agreement.claim_angstrom is not None
    assert made.agreement.claim_angstrom > 7.5
    assert made.made is not None
    assert (made.made.bfactor_angstrom2, made.fitted, made.reach_suffices) == (0.0, False, False)


def test_a_detectors_transfer_is_divided_out(tmp_path: Path) -> None:
    frequency = np.linspace(0, 0.5, 26)
    table = {"rlnResolutionInversePixel": frequency, "rlnMtfValue": 1 - 1.2 * frequency}
    write_star(tmp_path / "mtf.star", {"": pd.DataFrame(table)})
    transfer = 1 - 1.2 * radial_frequency(N, N).clamp(max=0.5)
    clean = pair(particle(100), 0.2)
    seen = [torch.fft.irfftn(torch.fft.rfftn(half) * transfer, s=(N,) * 3) for half in clean]
    cfg = ReconstructSharpen(bfactor_angstrom2=-50, lowpass_angstrom=4.0, diameter_angstrom=DIAMETER)
    folder = write_folder(tmp_path / "refine", (seen[0], seen[1]))
    command(folder, tmp_path / "with", cfg=cfg, run=RUN, mtf=tmp_path / "mtf.star")
    command(folder, tmp_path / "without", cfg=cfg, run=RUN)
    plain = write_folder(tmp_path / "plain", clean)
    command(plain, tmp_path / "clean", cfg=cfg, run=RUN)
    for name in ("map_sharpened", "map_local"):
        told, wrong, right = (
            torch.from_numpy(read_mrc(tmp_path / run / f"{name}.mrc")) for run in ("with", "without", "clean")
        )
        assert float((told - right).std()) < 0.05 * float(right.std())
        assert float((wrong - right).std()) > 0.15 * float(right.std())
    finer = cfg.model_copy(update={"mtf_pixel_size_angstrom": 2 * VOXEL})
    with pytest.raises(EmflowError, match=r"ends at 0\.5 per pixel"):
        command(folder, tmp_path / "no", cfg=finer, run=RUN, mtf=tmp_path / "mtf.star")


def test_what_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "refine", (noise(1), noise(2)))
    with pytest.raises(EmflowError, match="Name another folder"):
        command(folder, folder, run=RUN)
    with pytest.raises(EmflowError, match="expected FOLDER OUT"):
        command(folder, run=RUN)
    write_star(tmp_path / "fsc.star", {"fsc": pd.DataFrame({"rlnSpectralIndex": ["0"]})})
    with pytest.raises(EmflowError, match="rlnMtfValue"):
        command(folder, tmp_path / "out", run=RUN, mtf=tmp_path / "fsc.star")
    write_mrc(folder / "half2.mrc", noise(2).numpy(), VOXEL, labels=(RESTORED_LABEL,))
    with pytest.raises(EmflowError, match="restored pixels"):
        command(folder, tmp_path / "out", run=RUN)


def test_the_sign_of_shell_zero_says_nothing() -> None:
    curve = torch.linspace(1, 0.2, N // 2 + 1).double()
    curve[0] = -1
    assert fsc_weight(curve)[0] == 0
    assert (fsc_weight(curve)[1:] > 0.5).all()


def test_equal_gains_change_a_map_by_a_factor() -> None:
    grid = torch.full((32, 32, 32), 0.7)
    gains = [(frequency, grid) for frequency in (0.03, 0.05, 0.08, 0.2)]
    (out,) = blend_bands((noise(1),), gains, VOXEL)
    torch.testing.assert_close(out, 0.7 * noise(1), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(shutil.which("relion_postprocess") is None, reason="relion_postprocess is not installed")
def test_relion_applies_the_same_transfer_weight_and_b_factor(tmp_path: Path) -> None:
    """From RELION's own FSC: its random phases are its own."""
    folder = write_folder(tmp_path / "refine", pair(particle(150), 0.3))
    frequency = np.linspace(0, 0.5, 51)
    rows = "\n".join(f"{f:.4f} {1 - 1.2 * f:.6f}" for f in frequency)
    head = "data_\n\nloop_\n_rlnResolutionInversePixel #1\n_rlnMtfValue #2\n"
    (tmp_path / "mtf.star").write_text(head + rows + "\n")
    (tmp_path / "relion").mkdir()
    words = "--i refine/half1.mrc --i2 refine/half2.mrc --mask refine/mask.mrc --o relion/post --auto_bfac "
    # beyond Nyquist, in the last shell's corners, RELION divides by nothing: the fit ends before
    end = N * VOXEL / (N // 2 - 1)
    words += f"--autob_lowres 10 --autob_highres {end - 1e-4:.5f} --low_pass 4 --angpix {VOXEL} "
    words += f"--mtf mtf.star --mtf_angpix {VOXEL}"
    subprocess.run(["relion_postprocess", *words.split()], cwd=tmp_path, capture_output=True, check=False)
    theirs = read_star(tmp_path / "relion" / "post.star")
    general = theirs["general"]
    curve = torch.from_numpy(floats(theirs["fsc"], "rlnFourierShellCorrelationCorrected"))
    mean = torch.from_numpy((read_mrc(folder / "half1.mrc") + read_mrc(folder / "half2.mrc")) / 2)
    cfg = ReconstructSharpen(bfactor_fit_to_angstrom=end, lowpass_angstrom=4)
    transfer = 1 - 1.2 * torch.arange(N // 2 + 1).double() / N
    resolution = float(floats(general, "rlnFinalResolution")[0])
    made = sharpen(mean, curve, resolution, VOXEL, cfg, mtf=transfer)
    b = float(floats(general, "rlnBfactorUsedForSharpening")[0])
    assert made.bfactor_angstrom2 == pytest.approx(b, rel=0.01)
    volume = torch.from_numpy(read_mrc(tmp_path / "relion" / "post.mrc"))
    assert correlation(made.volume, volume, torch.ones(())) > 0.9999

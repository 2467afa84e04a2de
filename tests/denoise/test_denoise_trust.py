"""What independent data bear out: known additions are found, filters add nothing, decibels are the true ones."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from emflow.denoise import command
from emflow.denoise.apply import denoise
from emflow.denoise.config import DenoiseCheck
from emflow.denoise.inputs import load_model
from emflow.denoise.outputs_check import check_verdicts
from emflow.denoise.scale import Scale, to_scale
from emflow.denoise.similarity import consecutive_similarity
from emflow.denoise.trust import Pair as Images
from emflow.denoise.trust import Spectra, compared, interleaved, spectra_of
from emflow.io.star import floats, read_star, write_star
from emflow.step import EmflowError
from tests.denoise.conftest import blobs

SCALE, PIXEL, SIDE = Scale(), 6.0, 360


def scene(noise: float = 1.5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A signal and two images of it with independent noise."""
    rng = np.random.default_rng(seed)
    signal = blobs((SIDE, SIDE), rng, 60)
    images = (signal, *(signal + rng.normal(0, noise, signal.shape) for _ in range(2)))
    first, second, third = (torch.from_numpy(image.astype(np.float32)) for image in images)
    return first, second, third


def spectra(denoise_: Callable[[torch.Tensor], torch.Tensor], noise: float = 1.5, seed: int = 0) -> Spectra:
    _, seen, witness = scene(noise, seed)
    return compared(seen, witness, denoise_(seen), PIXEL, SCALE)


def smoothed(image: torch.Tensor) -> torch.Tensor:
    return 0.3 * torch.from_numpy(gaussian_filter(image.numpy(), 1.2))


def added_fraction(found: Spectra) -> float:
    return float(found.added().sum() / found.denoised.sum())


def answers(found: Spectra) -> list[str]:
    return [row["verdict"] for row in check_verdicts(found, SCALE)]


def test_identity_and_filters_add_nothing() -> None:
    for filter_ in (torch.clone, smoothed):
        assert abs(added_fraction(spectra(filter_))) < 0.02
    same = spectra(torch.clone)
    np.testing.assert_allclose(same.correlation_denoised(), same.correlation_raw(), equal_nan=True)
    assert same.snr_db()[0] == pytest.approx(same.snr_db()[1])


def test_a_pattern_that_is_not_in_the_data_is_caught() -> None:
    """As much power as the truth itself: half of what is shown is borne out, and the rest is called added."""
    truth, *_ = scene()
    pattern = torch.from_numpy(blobs((SIDE, SIDE), np.random.default_rng(9), 60).astype(np.float32))
    honest = spectra(lambda _: truth)
    false = spectra(lambda _: truth + pattern)
    assert honest.borne_out_fraction()[0] == pytest.approx(1.0, abs=0.05)
    assert false.borne_out_fraction()[0] == pytest.approx(0.5, abs=0.06)
    assert added_fraction(honest) < 0.1
    assert 0.35 < added_fraction(false) < 0.6
    assert answers(honest) == ["pass", "pass"]
    assert answers(false)[0] == "fail"


def test_detail_that_is_lost_is_told() -> None:
    """Pixels in disorder within a band: as much power, no correlation."""
    truth, *_ = scene()
    transform = torch.fft.rfft2(truth)
    s = torch.hypot(torch.fft.fftfreq(SIDE)[:, None], torch.fft.rfftfreq(SIDE)[None]) / PIXEL
    turn = torch.exp(6.283j * torch.rand(transform.shape, generator=torch.Generator().manual_seed(0)))
    band = (s > 1 / 45) & (s < 1 / 30)
    lost = torch.fft.irfft2(torch.where(band, transform * turn, transform), s=truth.shape)
    found = check_verdicts(spectra(lambda _: lost), SCALE)
    assert found[1]["verdict"] == "warn"
    assert any(f"near {d} Å" in found[1]["evidence"] for d in range(30, 46))


def test_decibels_and_correlations_are_those_of_the_truth() -> None:
    truth, seen, witness = scene(1.2)
    network, scale, _ = load_model(None, torch.device("cpu"))
    unit = float(seen.std())
    found = spectra_of(Images(seen, witness, PIXEL, unit), network, scale, 1024, False)
    same = compared(seen, truth, seen, PIXEL, scale)  # as if there were no noise in the witness
    known = spectra_of(Images(seen, truth, PIXEL, unit), network, scale, 1024, False)
    raw, denoised = found.snr_db()
    assert raw == pytest.approx(same.snr_db()[0], abs=0.3)
    assert denoised == pytest.approx(known.snr_db()[1], abs=0.5)
    sure = np.isfinite(found.correlation_denoised())
    differences = (found.correlation_denoised() - known.correlation_denoised())[sure]
    assert np.abs(differences).mean() < 0.08
    assert abs(differences.mean()) < 0.04


def test_every_other_pixel_shares_the_signal_but_not_the_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(900, 900, generator=rng)
    first, second = (to_scale(half, 2.0, SCALE).z for half in interleaved(noise))
    assert abs(float((first * second).mean())) < 0.02
    smooth = torch.from_numpy(gaussian_filter(noise.numpy(), 4.0))
    first, second = (to_scale(half, 2.0, SCALE).z for half in interleaved(smooth))
    assert float((first * second).mean()) == pytest.approx(1.0, abs=0.01)


def test_consecutive_similarity_grows_as_noise_falls() -> None:
    truth, *_ = scene()
    rng = torch.Generator().manual_seed(1)
    noises = [torch.randn(truth.shape, generator=rng) for _ in range(2)]
    found = [consecutive_similarity(*(truth + level * n for n in noises)) for level in (3.0, 1.0, 0.3, 0.0)]
    assert found == sorted(found)
    assert found[0] < 0.1
    assert found[3] == 1.0
    assert consecutive_similarity(0 * truth, 0 * truth) == 1.0


def without_halves(session: Path) -> None:
    tables = read_star(session)
    table = tables["micrographs"].drop(columns=["emflowEvenName", "emflowOddName"])
    write_star(session, {**tables, "micrographs": table})


def test_the_command_tells_where_its_evidence_is_from(session: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        command.check(session, tmp_path / name)
    for file in ("trust.png", "spectra.star", "metrics.json", "micrographs.star"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert metrics["micrographs_halves"] == 3
    table = read_star(tmp_path / "a" / "micrographs.star")["micrographs"]
    assert list(table["emflowEvidence"]) == ["halves"] * 3
    assert all(0.1 < value < 1.5 for value in floats(table, "emflowBorneOut"))
    similar = floats(table, "emflowConsecutiveSimilarity")
    assert float(np.mean(similar)) == pytest.approx(metrics["consecutive_similarity"], rel=1e-3)
    assert metrics["consecutive_similarity"] > metrics["raw_consecutive_similarity"] + 0.1
    without_halves(session)
    command.check(session, tmp_path / "split", cfg=DenoiseCheck(max_micrographs=2))
    metrics = json.loads((tmp_path / "split" / "metrics.json").read_text())
    assert metrics["micrographs_split"] == 2
    assert metrics["consecutive_similarity"] is None, "both images hold the one's own noise"
    assert metrics["denoised_snr_db"] is None or metrics["denoised_snr_db"] > metrics["raw_snr_db"]
    for evidence, word in (("halves", "input.even"), ("interleaved", "at most 3 Å")):
        with pytest.raises(EmflowError, match=word):
            command.check(session, tmp_path / "no", cfg=DenoiseCheck(evidence=evidence))
    with pytest.raises(EmflowError, match="last the folder"):
        command.check(session)


def test_of_noise_nothing_is_claimed(session: Path, tmp_path: Path, noise: Callable[[Path], None]) -> None:
    noise(session)
    command.check(session, tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    rows = json.loads((tmp_path / "out" / "verdicts.json").read_text())
    assert metrics["kept_variance"] < 0.01
    assert metrics["denoised_snr_db"] is None
    assert [row["verdict"] for row in rows] == ["unknown", "unknown"]


def test_a_picker_finds_nothing_in_denoised_noise() -> None:
    """Nor do templates: what is left of noise is noise, not the sparse blobs that a network makes of it."""
    from emflow.pick.apply import pick_micrograph
    from emflow.pick.config import PickApply

    network, scale, _ = load_model(None, torch.device("cpu"))
    for seed, diameter in ((0, 120.0), (1, 200.0)):
        image = torch.randn(600, 600, generator=torch.Generator().manual_seed(seed))
        denoised = denoise(image, 3.0, network, scale, 1024, bright=False)
        assert denoised.kept_variance < 0.01
        assert float(denoised.image.var()) < 0.05
        picks = pick_micrograph(denoised.image, 3.0, True, PickApply(diameter_angstrom=diameter))
        assert len(picks.xy_px) <= 1

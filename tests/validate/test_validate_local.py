"""Local resolution: planted gradients with a closed form, noise, uniform maps, traps, and a real map."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from emflow.device import generator
from emflow.em.bands import Windows, critical_correlation, enlarge, make_bands
from emflow.em.fourier import crop_spectrum
from emflow.em.fsc import shell_index
from emflow.em.local_filter import filter_locally
from emflow.em.local_resolution import local_fsc, windowed_resolution
from emflow.em.masks import soft_sphere, solvent_mask
from emflow.io.mrc import RESTORED_LABEL, UNRESTORED_LABEL, read_header, read_mrc, write_mrc
from emflow.step import EmflowError
from emflow.validate.command import local
from emflow.validate.config import ValidateLocal
from emflow.validate.local_single import monogenic_power, monogenic_resolution

N, VOXEL, FALL = 48, 2.0, 0.08
MASK = soft_sphere(N, 0.36 * N, 3)
INSIDE = MASK > 0.5
CFG = ValidateLocal()


def pair(seed: int, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """Halves of one detail with noise that rises along x, and the true resolution at FSC 0.5, (n, n, n).

    The power of the signal falls as exp(−f/FALL), f over Nyquist; noise of power exp(−e/FALL) meets it at f = e,
    where FSC = S/(S + N) = 0.5.
    """
    fall = torch.exp(-shell_index(N) / (N // 2) / (2 * FALL))
    detail = torch.fft.rfftn(torch.randn(N, N, N, generator=generator(seed)))
    signal = torch.fft.irfftn(detail * fall, s=(N, N, N))
    equal = low + (high - low) * ((torch.arange(N) - N / 2) / (0.8 * N) + 0.5).clamp(0, 1)
    noise = torch.exp(-equal / (2 * FALL))
    one, two = (signal + noise * torch.randn(N, N, N, generator=generator(seed, k)) for k in (1, 2))
    return one, two, (2 * VOXEL / equal).expand(N, N, N)


@pytest.mark.parametrize("method", ["halves", "monogenic"])
def test_a_planted_gradient_is_recovered(method: str) -> None:
    for seed in range(2):
        one, two, truth = pair(seed, 0.45, 0.9)
        if method == "halves":
            found = windowed_resolution(one, two, MASK, VOXEL, CFG)
        else:
            found = monogenic_resolution((one + two) / 2, (one - two) / 2, MASK, VOXEL, CFG)
        ratio = found.angstrom[INSIDE] / truth[INSIDE]
        assert spearmanr(truth[INSIDE], found.angstrom[INSIDE])[0] > 0.9
        assert float(ratio.mean()) == pytest.approx(1, abs=0.05)


def test_a_map_of_even_quality_has_a_narrow_distribution() -> None:
    one, two, truth = pair(4, 0.6, 0.6)
    found = windowed_resolution(one, two, MASK, VOXEL, CFG)
    low, middle, high = (float(found.angstrom[INSIDE].quantile(q)) for q in (0.05, 0.5, 0.95))
    assert middle == pytest.approx(float(truth[0, 0, 0]), rel=0.05)
    assert high / low < 1.25
    assert found.whole_angstrom == pytest.approx(middle, rel=0.05)


def test_noise_exceeds_each_band_at_the_stated_rate_and_is_not_resolved() -> None:
    windows, bands = Windows(MASK, VOXEL), make_bands(N, VOXEL, 1.0)
    inside = windows.sample(MASK) > 0.5
    passed: list[float] = []
    for seed in range(4):
        halves = [torch.randn(N, N, N, generator=generator(seed, 7, k)) for k in (1, 2)]
        for _, value, samples, _ in local_fsc((halves[0], halves[1]), windows, bands):
            passed.append(float((value > critical_correlation(samples, 0.05))[inside].float().mean()))
        found = windowed_resolution(halves[0], halves[1], MASK, VOXEL, CFG)
        assert float((found.resolved & INSIDE).sum() / INSIDE.sum()) < 0.01
    assert 0.02 < sum(passed) / len(passed) < 0.06


def test_noise_alone_is_no_monogenic_signal() -> None:
    share = []
    for seed in range(3):
        volume = torch.randn(N, N, N, generator=generator(seed, 8))
        other = torch.randn(N, N, N, generator=generator(seed, 9))
        for noise in (None, other):
            found = monogenic_resolution(volume, noise, MASK, VOXEL, ValidateLocal(method="monogenic"))
            share.append(float((found.resolved & INSIDE).sum() / INSIDE.sum()))
    assert sum(share) / len(share) < 0.02


def test_the_monogenic_amplitude_of_a_wave_is_flat() -> None:
    """Of cos(kr) it is 1 everywhere, while the square of the wave swings between 0 and 1."""
    phase = (
        2
        * math.pi
        * (3 * torch.arange(N)[:, None, None] + 2 * torch.arange(N)[:, None] + torch.arange(N))
        / N
    )
    full, half = torch.fft.fftfreq(N, 1 / N), torch.fft.rfftfreq(N, 1 / N)
    radius = (full[:, None, None].square() + full[:, None].square() + half.square()).sqrt().clamp_min(0.5)
    directions = (full[:, None, None] / radius, full[:, None] / radius, half / radius)
    wave = torch.fft.rfftn(torch.cos(phase), norm="forward")
    power = monogenic_power(wave, directions, torch.ones_like(radius))
    torch.testing.assert_close(power, torch.ones_like(power), atol=1e-4, rtol=0)


def test_cutting_a_spectrum_and_enlarging_keep_values_in_place() -> None:
    smooth = torch.cos(2 * math.pi * torch.arange(N) / N)[:, None, None] + torch.zeros(N, N, N)
    coarse = torch.fft.irfftn(
        crop_spectrum(torch.fft.rfftn(smooth, norm="forward"), N, 24), s=(24,) * 3, norm="forward"
    )
    torch.testing.assert_close(coarse, smooth[::2, ::2, ::2], atol=1e-5, rtol=0)
    torch.testing.assert_close(enlarge(coarse, N), smooth, atol=0.02, rtol=0)


def test_each_voxel_is_filtered_at_its_own_resolution() -> None:
    """A wave of 8 Å survives where the resolution is 5 Å and goes where it is 12 Å."""
    wave = torch.cos(2 * math.pi * torch.arange(N) / 4).expand(N, N, N).clone()
    resolution = torch.full((N, N, N), 12.0)
    resolution[: N // 2] = 5.0
    found = filter_locally(wave, resolution, torch.ones(N, N, N), VOXEL)
    torch.testing.assert_close(found[: N // 2], wave[: N // 2], atol=1e-4, rtol=0)
    assert float(found[N // 2 :].abs().max()) < 1e-4


def written(tmp_path: Path, one: Tensor, two: Tensor, **more: object) -> tuple[dict, list[dict]]:
    for k, volume in ((1, one), (2, two)):
        write_mrc(tmp_path / f"half{k}.mrc", volume.numpy(), VOXEL, labels=(UNRESTORED_LABEL,))
    write_mrc(tmp_path / "mask.mrc", MASK.numpy(), VOXEL)
    out = tmp_path / "out"
    local(tmp_path / "half1.mrc", tmp_path / "half2.mrc", out, mask=tmp_path / "mask.mrc", **more)  # type: ignore[arg-type]
    return json.loads((out / "metrics.json").read_text()), json.loads((out / "verdicts.json").read_text())


def test_the_command_writes_maps_that_nobody_takes_for_raw(tmp_path: Path) -> None:
    one, two, truth = pair(1, 0.5, 0.75)
    metrics, verdicts = written(tmp_path, one, two)
    assert [row["verdict"] for row in verdicts] == ["pass", "pass"]
    assert metrics["local_resolution_median_angstrom"] == pytest.approx(
        float(truth[INSIDE].median()), rel=0.05
    )
    assert metrics["resolved_fraction"] == 1
    out = tmp_path / "out"
    values = torch.from_numpy(read_mrc(out / "local_resolution.mrc"))
    assert float(values[INSIDE].min()) >= 2 * VOXEL
    assert not bool(values[~INSIDE].any())
    header = read_header(out / "local_filtered.mrc")
    assert header.labels == (RESTORED_LABEL,)
    assert header.voxel_size_angstrom == pytest.approx(VOXEL)
    assert {path.name for path in (out / "figures").iterdir()} == {"local.png", "histogram.png"}
    first = (out / "local_resolution.mrc").read_bytes()
    with pytest.raises(EmflowError, match="restored pixels"):
        local(out / "local_filtered.mrc", tmp_path / "half2.mrc", tmp_path / "again")
    written(tmp_path, one, two)
    assert (out / "local_resolution.mrc").read_bytes() == first


def test_a_floppy_part_and_a_shared_spot_are_named(tmp_path: Path) -> None:
    one, two, _ = pair(2, 0.5, 0.5)
    extra = [torch.randn(N, N, N, generator=generator(k)) * float(one.std()) for k in (11, 12)]
    there = 8.0 * (torch.arange(N) > 0.6 * N)
    _, verdicts = written(tmp_path, one + extra[0] * there, two + extra[1] * there)
    assert verdicts[0]["verdict"] == "warn"
    spot = 3 * soft_sphere(N, 5, 2).roll(6, 0) * extra[0]
    _, verdicts = written(tmp_path, one + spot, two + spot)
    assert verdicts[1]["verdict"] == "warn"
    noise = [torch.randn(N, N, N, generator=generator(k)) for k in (13, 14)]
    metrics, verdicts = written(tmp_path, noise[0], noise[1])
    assert verdicts[0]["verdict"] == "fail"
    assert metrics["local_resolution_median_angstrom"] is None
    zero = torch.zeros(N, N, N)
    _, verdicts = written(tmp_path, zero, zero)
    assert "empty" in verdicts[0]["evidence"]


def test_one_map_needs_the_monogenic_method(tmp_path: Path) -> None:
    signal = (pair(3, 0.8, 0.8)[0]) * soft_sphere(N, 0.3 * N, 2)
    volume = signal + 0.02 * float(signal.std()) * torch.randn(N, N, N, generator=generator(5))
    write_mrc(tmp_path / "map.mrc", volume.numpy(), VOXEL)
    write_mrc(tmp_path / "mask.mrc", MASK.numpy(), VOXEL)
    with pytest.raises(EmflowError, match="--method monogenic"):
        local(tmp_path / "map.mrc", tmp_path / "out")
    with pytest.raises(EmflowError, match="1 paths"):
        local(tmp_path / "map.mrc")
    cfg = ValidateLocal(method="monogenic")
    local(tmp_path / "map.mrc", tmp_path / "out", cfg=cfg, mask=tmp_path / "mask.mrc")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["resolved_fraction"] > 0.9


def test_a_real_map_follows_its_published_local_resolution(real_data: Path) -> None:
    volume = torch.from_numpy(read_mrc(real_data / "maps" / "betaGal_crop50_f16.mrc"))
    published = torch.from_numpy(read_mrc(real_data / "maps" / "localResolution_crop50_f16.mrc"))
    mask = solvent_mask(volume, 3.54, lowpass_angstrom=10, dilate_angstrom=4).mask
    found = monogenic_resolution(volume, None, mask, 3.54, ValidateLocal(method="monogenic"))
    inside = found.inside & (published != published[0, 0, 0])
    assert spearmanr(published[inside], found.angstrom[inside])[0] > 0.4
    median = float(found.angstrom[inside].median())
    assert median == pytest.approx(float(published[inside].median()), rel=0.2)

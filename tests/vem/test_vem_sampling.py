"""The texture's choice, its noise and its flow, where the answer is known; blocks give the whole's samples."""

from __future__ import annotations

import math

import pytest
import torch

from emflow.nn.flow import follow
from emflow.nn.noise import coloured, white
from emflow.vem.blocks import blocks_of
from emflow.vem.config import VemTrainSampler
from emflow.vem.grid import Grid
from emflow.vem.model import Filler
from emflow.vem.sampler import Flow, Sampler, assemble, sample_block
from emflow.vem.score import axial_spectra, high_frequency_power
from emflow.vem.texture import axial_powers, choose, field_kernel, filtered, fitted
from emflow.vem.train_sampler import Planes, begin


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_noise_is_a_function_of_place_and_seed_alone():
    whole = white(3, (-2, 5, -7), (12, 20, 24))
    assert torch.equal(whole[4:9, 3:, 10:13], white(3, (2, 8, 3), (5, 17, 3)))
    many = white(0, (0, 0, 0), (40, 50, 60)).double()
    assert abs(float(many.mean())) < 0.01
    assert float(many.std()) == pytest.approx(1, abs=0.01)
    assert float((many**4).mean()) == pytest.approx(3, abs=0.1)
    for other in (
        white(1, (0, 0, 0), (40, 50, 60)),
        *(white(0, at, (40, 50, 60)) for at in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -1, 0))),
    ):
        assert abs(float((many * other).mean())) < 0.01


def test_a_plane_s_powers_add_up_to_its_variance():
    planes = 3 * _normal(40, 61, 64)
    assert float(axial_powers(planes).sum()) == pytest.approx(9, rel=0.03)


def test_white_noise_costs_what_the_formula_says():
    """Of white noise all is unknown: 0.7 of the bands from 0.5 on, lateral frequencies no higher, cost ∫ f df."""
    truth, flat = _normal(60, 97, 64), torch.zeros(60, 97, 64)
    cost = (0.85**2 - 0.5**2) / 2 / (7 / 8)
    found = choose(truth, flat, 8, 1.0, 0.5)
    assert found.loss_needed_db == pytest.approx(10 * math.log10(1 + cost), abs=0.05)
    assert found.variance == pytest.approx(10**0.05 - 1, rel=0.01)
    assert found.power_before < 0.01
    assert found.power < 0.7
    power = axial_powers(filtered(truth, found.taps))
    low = 2 * torch.fft.fftfreq(97).abs() < 0.4
    assert float(power[low].sum()) < 0.05 * float(power.sum())
    most = choose(truth, flat, 8, 1.0, 3.0)
    assert most.variance == pytest.approx(0.5 * 8 / 7, rel=0.05), "all of the upper half, and no more"


def test_detail_is_added_where_power_is_lowest_and_nowhere_in_excess():
    high = filtered(_normal(40, 97, 64), _response(0.5))
    low = 6 * filtered(_normal(40, 97, 64, seed=1), _response(0.3, below=True))
    truth, mean = low + 0.3 * _normal(40, 97, 64, seed=2) + high, low
    found = choose(truth, mean, 8, 0.6, 0.7)
    taken = filtered(truth - mean, found.taps)
    power = axial_powers(taken)
    frequency = 2 * torch.fft.fftfreq(97).abs()
    assert float(power[frequency < 0.3].sum()) < 0.05 * float(power.sum())
    assert choose(truth, truth, 8, 0.1, 0.5).variance < 1e-6, "nothing is lacking"


def _response(cut: float, below: bool = False) -> torch.Tensor:
    at = torch.arange(-12, 13.0)
    taps = cut * torch.sinc(cut * at) * torch.hann_window(27, periodic=False)[1:-1]
    return taps if below else (at == 0).float() - taps


def test_the_field_s_planes_covary_as_the_planes_it_was_made_from():
    smooth = torch.nn.functional.avg_pool3d(_normal(60, 108, 108)[None], (3, 1, 3), stride=1)[0]
    planes = filtered(smooth, _response(0.6))[:, 20:-20]
    field = coloured(5, (0, 0, 0), (64, 48, 48), field_kernel(planes))

    def correlation(values: torch.Tensor, down: int, across: int) -> float:
        a = values[..., down:, across:]
        b = values[..., : values.shape[-2] - down, : values.shape[-1] - across]
        return float((a * b).mean() / values.square().mean())

    for lag in ((1, 0), (2, 0), (0, 1), (0, 2), (1, 1)):
        wanted = correlation(planes, *lag)
        for found in (field.permute(1, 0, 2), field.permute(2, 0, 1)):
            assert correlation(found, *lag) == pytest.approx(wanted, abs=0.06)


def test_fitted_noise_spares_measured_rows_and_stays_high():
    noise = filtered(_normal(30, 120, 40), _response(0.6))
    made = fitted(noise, 6)
    assert not made[:, ::6].any()
    frequency = 2 * torch.fft.fftfreq(120).abs()
    cut = noise.clone()
    cut[:, ::6] = 0
    high = [
        float(axial_powers(planes)[frequency > 0.5].sum() / axial_powers(planes).sum())
        for planes in (made, cut)
    ]
    assert high[0] > 0.9
    assert high[0] > high[1] + 0.05


@pytest.mark.parametrize("variance", [0.25, 0.5, 2.0])
def test_four_steps_of_an_exact_flow_reach_the_right_deviation(variance):
    """For Gaussians the velocity is known: sin θ cos θ (λ − 1) / (cos² θ + λ sin² θ) times the place."""

    def velocity(x: torch.Tensor, told: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        sin, cos = angle.sin(), angle.cos()
        rate = sin * cos * (variance - 1) / (cos**2 + variance * sin**2)
        return x * rate[:, None, None, None]

    start = torch.ones(1, 2, 2, 2)
    found = follow(velocity, start, start, 4)
    torch.testing.assert_close(found, start * math.sqrt(variance), rtol=0.05, atol=0)
    assert torch.equal(follow(velocity, start, start, 0), start)


@pytest.fixture
def sampler() -> Sampler:
    """A sampler whose networks do something."""
    torch.manual_seed(3)
    filler = Filler.begin(4, mean=100.0, deviation=20.0, spread=0.4)
    torch.nn.init.normal_(filler.network.last.weight, std=0.1)
    flow = Flow(4)
    torch.nn.init.normal_(flow.last.weight, std=0.05)
    taps = _response(0.5)
    return Sampler(flow, filler, taps, field_kernel(filtered(_normal(20, 73, 64), taps)), 0.3)


@pytest.mark.parametrize(("shape", "size"), [((28, 9, 10), (6, 16, 16)), ((5, 9, 150), (100, 16, 32))])
def test_blocks_give_the_samples_of_the_whole(sampler, shape, size):
    volume = _normal(*shape)
    _, (all_of_it,) = blocks_of(shape, (10_000,) * 3, sampler.reach(2), Grid(4, 4.0))
    mean, textures = sample_block(sampler, volume, all_of_it, (1, 2), 2)
    assert 0.5 < float(textures[0].std()) < 2
    expected = [assemble(volume, mean + texture, all_of_it) for texture in textures]
    assert not torch.allclose(expected[0], expected[1], atol=0.1)
    got = [torch.full_like(values, torch.nan) for values in expected]
    _, blocks = blocks_of(shape, size, sampler.reach(2), Grid(4, 4.0))
    assert len(blocks) > 3
    for block in blocks:
        mean, textures = sample_block(sampler, volume[block.window], block, (1, 2), 2)
        for out, texture in zip(got, textures, strict=True):
            part = assemble(volume[block.window], mean + texture, block)
            out[block.region] = part
    for found, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
        assert torch.equal(found[::4], volume)


def test_both_families_see_the_same_noise(sampler):
    """Without a flow the texture of xz planes is that of yz planes: their average loses no power."""
    volume = torch.zeros(9, 32, 32)
    _, (block,) = blocks_of((9, 32, 32), (10_000,) * 3, sampler.reach(0), Grid(4, 4.0))
    _, (texture,) = sample_block(sampler, volume, block, (7,), 0)
    noise = sampler.noise(7, (0, 0, 0), (32, 32, 32)).unflatten(0, (8, 4))[:, 1:]
    torch.testing.assert_close(texture, noise, rtol=0, atol=1e-5)


def test_texture_raises_the_high_frequencies_of_a_volume(sampler):
    volume = torch.zeros(17, 40, 40)
    _, (block,) = blocks_of((17, 40, 40), (10_000,) * 3, sampler.reach(0), Grid(4, 4.0))
    _, (texture,) = sample_block(sampler, volume, block, (7,), 0)
    made = assemble(volume, texture, block).permute(1, 0, 2)
    frequency, _, power = axial_spectra(made, _normal(40, 65, 40))
    assert high_frequency_power(frequency, power) > 3 * float(
        power[(frequency > 0.1) & (frequency < 0.4)].mean()
    )


@pytest.mark.parametrize("factor", [2, 3, 16])
def test_any_factor_has_a_texture(factor):
    filler = Filler.begin(factor, 0.0, 1.0, 0.5)
    planes = Planes([_normal(3, 100, 100)], turn=True)
    made, texture = begin(filler, planes, 1.0, VemTrainSampler(), torch.device("cpu"))
    noise = made.noise(1, (5, 0, 0), (96, 40, 40))
    places = torch.arange(5, 101) % factor
    assert not noise[places == 0].any()
    assert float(noise[places != 0].square().mean()) == pytest.approx(1, abs=0.1)
    assert texture.loss_needed_db > 0.5

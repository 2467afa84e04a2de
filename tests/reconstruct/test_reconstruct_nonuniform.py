"""Local regularisation: a moving part loses noise, a rigid one nothing; halves stay apart; noise stays noise."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.bands import radial_frequency
from emflow.em.fsc import fsc, resolution_at, shell_index
from emflow.em.masks import soft_sphere
from emflow.em.wiener import fsc_to_ssnr
from emflow.io.mrc import read_mrc, write_mrc
from emflow.reconstruct.command import refine
from emflow.reconstruct.config import ReconstructRefine
from emflow.reconstruct.nonuniform import regularise_locally
from emflow.step import Run

N, VOXEL = 64, 1.5
RUN = Run(threads=1, device="cpu")
SPHERE = soft_sphere(N, 24, 4)
RIGID, MOVING = (soft_sphere(N, 8, 4).roll(shift, 2) for shift in (-11, 11))


def noise(seed: int) -> Tensor:
    return torch.randn(N, N, N, generator=generator(seed))


def part(seed: int, bfactor: float, mask: Tensor) -> Tensor:
    fall = torch.exp(-bfactor / 4 * radial_frequency(N, N * VOXEL).square())
    volume = torch.fft.irfftn(torch.fft.rfftn(noise(seed)) * fall, s=(N,) * 3)
    return volume / volume.std() * mask


def by_shells(halves: tuple[Tensor, Tensor], curve: Tensor) -> tuple[Tensor, Tensor]:
    """Both halves under the Wiener filter of their FSC."""
    ssnr = torch.nn.functional.pad(fsc_to_ssnr(curve), (0, 1)).float()
    gain = (ssnr / (1 + ssnr))[shell_index(N)]
    one, two = (torch.fft.irfftn(torch.fft.rfftn(half) * gain, s=(N,) * 3) * SPHERE for half in halves)
    return one, two


def regularised(truth: Tensor, level: float) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """References of two noisy halves: by shells, and locally."""
    raw = truth + level * noise(1), truth + level * noise(2)
    shells = by_shells(raw, fsc(raw[0] * SPHERE, raw[1] * SPHERE))
    return shells, regularise_locally(shells, raw, SPHERE, VOXEL)


def error(volume: Tensor, truth: Tensor, mask: Tensor) -> float:
    return float(((volume - truth) * mask).square().sum() / (truth * mask).square().sum())


def test_both_parts_of_an_uneven_particle_gain() -> None:
    truth = part(9, 60, RIGID) + part(8, 900, MOVING)
    shells, local = regularised(truth, 1.0)
    for k in (0, 1):
        assert error(local[k], truth, MOVING) < 0.8 * error(shells[k], truth, MOVING)
        assert error(local[k], truth, RIGID) < 0.9 * error(shells[k], truth, RIGID)


def test_an_even_particle_loses_nothing() -> None:
    truth = part(9, 200, soft_sphere(N, 18, 4))
    shells, local = regularised(truth, 1.0)
    assert error(local[0], truth, SPHERE) < 1.005 * error(shells[0], truth, SPHERE)


def test_nothing_but_the_gains_crosses_from_half_to_half() -> None:
    nothing, other = torch.zeros(N, N, N), part(9, 60, RIGID)
    one, two = regularise_locally((nothing, other), (nothing, other), SPHERE, VOXEL)
    assert not one.any()
    # and what a half gets is its own map, filtered: turned over, it comes out turned over
    raw = other + noise(1), other + noise(2)
    pair = by_shells(raw, torch.full((N // 2 + 1,), 0.5))
    one, two = regularise_locally(pair, raw, SPHERE, VOXEL)
    minus, same = regularise_locally((-pair[0], pair[1]), (-raw[0], raw[1]), SPHERE, VOXEL)
    assert float(minus.norm()) < 0.1 * float(one.norm())  # opposite halves predict nothing of each other
    assert float(same.norm()) < 0.1 * float(two.norm())


def test_noise_is_taken_away_and_its_halves_do_not_come_to_agree() -> None:
    raw = noise(1), noise(2)
    filtered = raw[0] * SPHERE, raw[1] * SPHERE
    one, two = regularise_locally(filtered, raw, SPHERE, VOXEL)
    assert float(one.norm()) < 0.1 * float(filtered[0].norm())
    assert abs(float((one * two).sum())) < 0.01 * float((filtered[0] * filtered[1]).abs().sum())


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory, make_particles: Callable) -> Callable:
    """Refine a small set from its low-passed truth, with local regularisation."""

    def run(snr: float) -> tuple[dict[str, float], Tensor, Tensor]:
        folder = tmp_path_factory.mktemp("nonuniform")
        truth = make_particles(folder, 200, snr)
        (folder / "start").mkdir()
        fall = torch.exp(-0.25 * 40.0**2 * radial_frequency(32, 32 * 6.0).square())
        coarse = torch.fft.irfftn(torch.fft.rfftn(truth.volume) * fall, s=(32,) * 3)
        # from one reference both halves of noise come to agree on it, by whatever filter: here they begin apart
        starts = (coarse, coarse if snr else coarse.transpose(0, 2).flip(1))
        for number, start in enumerate(starts, start=1):
            write_mrc(folder / "start" / f"half{number}.mrc", start.numpy(), 6.0)
        cfg = ReconstructRefine(
            diameter_angstrom=120, max_iterations=3, global_iterations=1, regularisation="local"
        )
        refine(truth.star, folder / "start", folder / "refine", cfg=cfg, run=RUN)
        halves = [torch.from_numpy(read_mrc(folder / "refine" / f"half{k}.mrc")) for k in (1, 2)]
        metrics = json.loads((folder / "refine" / "metrics.json").read_text())
        return metrics, (halves[0] + halves[1]) / 2, truth.volume

    return run


def test_the_reported_resolution_is_not_finer_than_the_true_one(refined: Callable) -> None:
    metrics, mean, truth = refined(0.3)
    mask = soft_sphere(32, 11, 4)
    true = resolution_at(fsc(mean * mask, truth * mask), 0.5, 32, 6.0, interpolate=True)
    assert true is not None
    assert true < 30
    assert metrics["resolution_angstrom"] > true / 1.05


def test_nothing_is_found_in_noise(refined: Callable) -> None:
    assert refined(0.0)[0]["resolution_angstrom"] is None

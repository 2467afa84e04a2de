"""How much detail each micrograph holds: found where it was put, and not where there is no difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from emflow.em.optics import Ctf, ctf_values
from emflow.io.particle_images import image_set
from emflow.io.particles import Particles, load_particles
from emflow.io.star import floats
from emflow.reconstruct.config import ReconstructCtf
from emflow.reconstruct.ctf_refine import CtfFit, CtfRefinement, make_matcher
from emflow.reconstruct.envelope import envelopes_of
from emflow.reconstruct.inputs_ctf import places_of, views_of
from emflow.reconstruct.merge import reconstruct_halves
from emflow.reconstruct.outputs_ctf import refined_table
from emflow.simulate.command import particles as simulate
from emflow.simulate.config import SimulateParticles
from emflow.step import Run

CPU = torch.device("cpu")
SET = SimulateParticles(
    mass_kda=90, n_domains=4, diameter_angstrom=90, box_px=48, pixel_size_angstrom=3.0, n_particles=600,
    particles_per_micrograph=30, snr=0.3, n_state_volumes=1,
)  # fmt: skip
CFG = ReconstructCtf(diameter_angstrom=95, defocus="none", astigmatism="none", beam_tilt=False)
B_FACTOR, SCALE = 200.0, 0.6


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    folder = tmp_path_factory.mktemp("envelope")
    simulate(folder, cfg=SET, run=Run(threads=1, device="cpu"))
    return load_particles(folder / "particles.star")


def poor_of(micrograph: torch.Tensor) -> torch.Tensor:
    """Every second micrograph of each half is poor: (N,), bool."""
    return (micrograph // 2) % 2 == 1


def grain(rows: torch.Tensor) -> torch.Tensor:
    """White noise of deviation 1, each image's own."""
    random = torch.Generator().manual_seed(7)
    return torch.randn(SET.n_particles, 48, 48, generator=random)[rows]


def fitted(particles: Particles, change: Callable[..., torch.Tensor] | None) -> tuple[CtfFit, torch.Tensor]:
    """The fit of images that were changed, and which particles are poor."""
    images = image_set(particles, CPU)
    views = views_of(particles, images)
    poor = poor_of(views.micrograph)
    if change is not None:
        read = images.read
        images = replace(images, read=lambda rows: change(poor[rows], read(rows), grain(rows)))
    halves = reconstruct_halves(images, views.rotations, views.shifts_px, "C1")
    matcher = make_matcher(images, views, halves, 95.0, CFG)
    return CtfRefinement(matcher, places_of(particles, views.micrograph), CFG).run(), poor


def weakened(poor: torch.Tensor, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Poor images blurred and weakened, with as much fresh noise as takes the place of what was blurred."""
    k2 = torch.fft.fftfreq(48, 3.0)[:, None] ** 2 + torch.fft.rfftfreq(48, 3.0) ** 2
    envelope = SCALE * torch.exp(-B_FACTOR * k2 / 4)
    spectra = torch.fft.rfft2(pixels)
    fresh = torch.fft.rfft2(noise) * (1 - envelope**2).sqrt()
    return torch.where(poor[:, None, None], torch.fft.irfft2(spectra * envelope + fresh, s=(48, 48)), pixels)


def test_a_ctf_with_b_factor_and_scale_is_relions() -> None:
    optics = Ctf(torch.tensor([1.2, 1.2]), torch.tensor([1.1, 1.1]), torch.tensor([20.0, 20.0]))
    fy, fx = torch.tensor([0.05, 0.0]), torch.tensor([0.1, 0.2])
    plain = ctf_values(optics, fy, fx)
    under = replace(optics, b_factor_angstrom2=torch.tensor([80.0, 0.0]), scale=torch.tensor([0.5, 1.0]))
    expected = plain * torch.tensor([[0.5], [1.0]])
    expected[0] *= torch.exp(-80 * (fy**2 + fx**2) / 4)
    torch.testing.assert_close(ctf_values(under, fy, fx), expected)
    torch.testing.assert_close(ctf_values(under[torch.tensor([1])], fy, fx), plain[1:])


def test_sums_give_back_the_envelopes_they_were_made_with() -> None:
    random = torch.Generator().manual_seed(0)
    square = (torch.arange(40, dtype=torch.float64) / 200) ** 2
    common = torch.linspace(1, 0.5, 40, dtype=torch.float64)
    true = torch.randn(60, 2, generator=random, dtype=torch.float64) * torch.tensor([0.2, 30.0])
    true -= true.mean(0)
    power = torch.full((60, 2, 40), 200.0, dtype=torch.float64)
    a = common * torch.exp(true[:, :1] - true[:, 1:] * square / 4)
    noise = torch.randn(60, 2, 40, generator=random, dtype=torch.float64) * (power / 2).sqrt()
    for signal in (a[:, None], common.expand(60, 2, 40)):
        sums = torch.stack([signal * power + noise, power], 2)
        found = envelopes_of(sums, torch.full((60,), 30.0, dtype=torch.float64), square)
        errors = found.log_scale - true[:, 0], found.b_factor_angstrom2 - true[:, 1]
        gain, sure = float(found.gain.mean()), float(found.gain.std() / 60**0.5)
        if signal.shape[1] == 1:
            assert errors[0].std() < 0.03
            assert errors[1].std() < 6
            assert gain > 4 * sure
        else:
            assert found.log_scale.abs().max() < 0.05
            assert found.b_factor_angstrom2.abs().max() < 10
            assert gain < 3 * sure


def test_poor_micrographs_weigh_less_and_the_table_says_so(particles: Particles) -> None:
    fit, poor = fitted(particles, weakened)
    assert fit.gain_envelope is not None
    assert fit.gain_envelope.convincing
    table = refined_table(particles, fit).table
    b_factor, scale = floats(table, "rlnCtfBfactor"), floats(table, "rlnCtfScalefactor")
    mask = poor.numpy()
    assert np.median(b_factor[mask]) - np.median(b_factor[~mask]) == pytest.approx(B_FACTOR, rel=0.35)
    assert np.median(scale[mask]) / np.median(scale[~mask]) == pytest.approx(SCALE, rel=0.2)
    again = replace(particles, table=table)
    plane = image_set(particles, CPU).plane(20)
    rows = torch.arange(4)
    extent = 48 * 3.0
    ratio = image_set(again, CPU).ctf(rows, plane.ky / extent, plane.kx / extent) / image_set(
        particles, CPU
    ).ctf(rows, plane.ky / extent, plane.kx / extent)
    expected = scale[:4, None] * np.exp(-b_factor[:4, None] * (plane.radius.numpy() / extent) ** 2 / 4)
    np.testing.assert_allclose(ratio.numpy(), expected, rtol=1e-4)
    more, _ = fitted(again, weakened)
    assert more.log_scale is None or float(more.log_scale.abs().max()) < 0.15, "nothing is left to find"


def test_equal_micrographs_stay_equal(particles: Particles) -> None:
    fit, _ = fitted(particles, None)
    assert fit.gain_envelope is not None
    assert fit.log_scale is None
    assert not fit.changed
    assert "rlnCtfBfactor" not in refined_table(particles, fit).table


def test_noise_has_no_envelope(particles: Particles) -> None:
    fit, _ = fitted(particles, lambda poor, pixels, noise: noise)
    assert fit.log_scale is None
    assert not fit.changed

"""Poses climbed to the maximum of their likelihood, and the covariance that comes with them."""

import math

import pytest
import torch

from emflow.em.masks import soft_sphere
from emflow.em.pose_fit import FittedPoses, _Slope, climb, fit_poses
from emflow.em.poses import angular_distance_deg, quaternion_to_matrix, rotation_vector_to_matrix
from emflow.em.search import Poses, WeightedImages
from emflow.em.slices import HalfPlane, complex_product, volume_spectrum

BOX, BAND = 32, 12.0


def particle(seed: int = 0) -> torch.Tensor:
    """A map without symmetry: noise of long waves in a ball."""
    random = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.rfftn(torch.randn(BOX, BOX, BOX, generator=random))
    k = torch.fft.fftfreq(BOX)[:, None, None] ** 2 + torch.fft.fftfreq(BOX)[:, None] ** 2
    spectrum *= torch.exp(-40 * (k + torch.fft.rfftfreq(BOX) ** 2))
    volume = torch.fft.irfftn(spectrum, s=(BOX,) * 3) * soft_sphere(BOX, 9.0, 3.0)
    return volume / volume.std()


class Set:
    """Images of a map at random poses, in white noise."""

    def __init__(self, count: int, noise: float, seed: int = 1) -> None:
        random = torch.Generator().manual_seed(seed)
        self.plane = HalfPlane.build(BOX, BAND)
        self.spectrum = volume_spectrum(particle(), BAND)
        q = torch.randn(count, 4, generator=random)
        self.rotations = quaternion_to_matrix(q / q.norm(dim=1, keepdim=True))
        self.shifts = torch.randn(count, 2, generator=random)
        self.ctf = torch.cos(self.plane.radius / 3) * torch.ones(count, 1)
        clean = self.spectrum.slices(self.rotations, self.plane) * self.ctf[:, None]
        data = complex_product(clean, self.plane.phases(-self.shifts))
        # E|F|² = σ² at each half pixel, half of it in each part
        data += noise * math.sqrt(0.5) * torch.randn(data.shape, generator=random)
        inverse = torch.full((len(self.plane),), noise**-2 if noise else 1.0)
        self.images = WeightedImages.make(data, self.ctf, inverse)

    def off(self, degrees: float, pixels: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Poses that far from the truth."""
        random = torch.Generator().manual_seed(2)
        vectors = torch.randn(len(self.rotations), 3, generator=random)
        vectors *= math.radians(degrees) / vectors.norm(dim=1, keepdim=True)
        away = torch.randn(len(self.shifts), 2, generator=random)
        moved = self.shifts + pixels * away / away.norm(dim=1, keepdim=True)
        return rotation_vector_to_matrix(vectors) @ self.rotations, moved


def test_without_noise_the_pose_is_found_from_five_degrees_off():
    images = Set(40, 0.0)
    found = fit_poses(images.images, images.spectrum, images.plane, *images.off(5.0, 0.7), 12)
    assert angular_distance_deg(found.rotations, images.rotations).max() < 0.05
    assert (found.shifts_px - images.shifts).norm(dim=1).max() < 0.01


def test_a_pose_at_the_top_takes_no_more_steps(monkeypatch: pytest.MonkeyPatch):
    images = Set(60, 4.0)
    at = _Slope.at
    sizes: list[int] = []

    def counted(*given):
        sizes.append(len(given[3]))
        return at(*given)

    monkeypatch.setattr(_Slope, "at", staticmethod(counted))
    everything = (images.images, images.spectrum, images.plane)
    few = fit_poses(*everything, *images.off(2.0, 0.3), 12)
    assert sizes[0] == 60
    assert sum(sizes) < 4 * 60, f"most settle within three looks: {sizes}"
    monkeypatch.setattr("emflow.em.pose_fit.TRUSTED", -1.0)
    top = fit_poses(*everything, few.rotations, few.shifts_px, 30)
    assert (top.scores - few.scores).max() < 0.05, "nothing worth speaking of was left to gain"
    away = angular_distance_deg(top.rotations, few.rotations) / top.rotation_sigma_deg
    assert away.max() < 0.2


def test_gradient_and_score_are_those_of_the_likelihood():
    images = Set(6, 2.0)
    rotations, shifts = images.off(3.0, 0.4)
    here = _Slope.at(images.images, images.spectrum, images.plane, rotations, shifts)
    step = 2e-3
    for axis in range(5):
        scores = []
        for sign in (1, -1):
            theta = torch.zeros(6, 5)
            theta[:, axis] = sign * step
            turned = rotation_vector_to_matrix(theta[:, :3]) @ rotations
            there = _Slope.at(images.images, images.spectrum, images.plane, turned, shifts + theta[:, 3:])
            scores.append(there.score)
        slope = (scores[0] - scores[1]) / (2 * step)
        scale = here.information[:, axis, axis].sqrt()  # what noise makes of a gradient
        assert (slope.abs() > 2 * scale).any()
        assert ((slope - here.gradient[:, axis]).abs() < scale).all()


def test_errors_are_those_the_covariance_says():
    images = Set(1200, 8.0)
    found = fit_poses(images.images, images.spectrum, images.plane, *images.off(1.0, 0.1), 6)
    turn = images.rotations @ found.rotations.transpose(1, 2)
    vector = torch.stack(
        [turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], 1
    )
    error = torch.cat([vector / 2, images.shifts - found.shifts_px], 1)
    chi2 = (error * torch.linalg.solve(found.covariance, error[:, :, None])[:, :, 0]).sum(1)
    assert 0.5 < found.rotation_sigma_deg.median() < 10  # noisy enough to be a test
    assert chi2.median() == pytest.approx(4.35, rel=0.15)  # of 5 degrees of freedom
    assert (chi2 < 9.24).float().mean() == pytest.approx(0.9, abs=0.04)


def test_noise_alone_leaves_poses_uncertain():
    images = Set(100, 8.0)
    random = torch.Generator().manual_seed(3)
    noise = 8.0 * math.sqrt(0.5) * torch.randn(images.images.data.shape, generator=random)
    inverse = torch.full((len(images.plane),), 8.0**-2)
    empty = WeightedImages.make(noise, images.ctf, inverse)
    truth = fit_poses(images.images, images.spectrum, images.plane, images.rotations, images.shifts, 6)
    found = fit_poses(empty, images.spectrum, images.plane, images.rotations, images.shifts, 6)
    assert found.scores.median() < 0.3 * truth.scores.median()


def test_the_best_of_several_candidates_is_climbed():
    images = Set(30, 4.0)
    near, shifts = images.off(4.0, 0.5)
    far = images.off(60.0, 1.0)[0]
    candidates = Poses(
        torch.stack([far, far.transpose(1, 2), near, far @ far], 1),
        shifts[:, None].expand(-1, 4, 2),
        torch.zeros(30, 4),
    )
    found = climb(images.images, images.spectrum, images.plane, candidates, 8)
    assert angular_distance_deg(found.rotations, images.rotations).median() < 2.0


def test_draws_have_the_covariance_and_the_mean_of_the_posterior():
    root = torch.diag(torch.tensor([0.01, 0.02, 0.03, 0.5, 1.0])) + torch.tril(torch.full((5, 5), 0.004), -1)
    covariance = (root @ root.T).expand(2, 5, 5).clone()
    poses = FittedPoses(torch.eye(3).expand(2, 3, 3).clone(), torch.ones(2, 2), torch.zeros(2), covariance)
    rotations, shifts = poses.drawn(20000, torch.Generator().manual_seed(0))
    assert torch.allclose(shifts.mean(1), torch.ones(2, 2), atol=1e-4)
    vectors = torch.stack([rotations[0, :, 2, 1], rotations[0, :, 0, 2], rotations[0, :, 1, 0]], 1)
    sample = torch.cat([vectors, shifts[0] - 1], 1).T.cov()
    spread = covariance[0].diagonal().sqrt()
    assert ((sample - covariance[0]) / (spread[:, None] * spread)).abs().max() < 0.05
    again = poses.drawn(20000, torch.Generator().manual_seed(0))
    assert torch.equal(rotations, again[0])


def test_a_direction_without_information_stays_uncertain():
    images = Set(3, 4.0)
    flat = volume_spectrum(soft_sphere(BOX, 6.0, 3.0), BAND)
    found = fit_poses(images.images, flat, images.plane, images.rotations, images.shifts, 3)
    assert torch.isfinite(found.covariance).all()
    assert (found.rotation_sigma_deg > 30).all()

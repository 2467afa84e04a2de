"""Scores of heterogeneity and of denoising: perfect results, results of chance, and known values between."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter

from emflow.em.poses import mirror_rotations
from emflow.em.volume_align import Alignment, apply_alignment
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import floats, integers, read_star, read_table, write_star
from emflow.simulate.command import particles, score, session
from emflow.simulate.config import SimulateParticles, SimulateSession
from emflow.simulate.inputs import read_truth, read_variation
from emflow.simulate.project import random_rotations
from emflow.simulate.score_denoise import Restored, score_denoise, snr_db
from emflow.simulate.score_latents import Latents, coordinate_error, score_latents

SET = SimulateParticles(
    mass_kda=130, n_domains=4, diameter_angstrom=110, box_px=36, n_particles=240, n_angles=1, n_compositions=2,
    angle_range_deg=120.0, moving_fraction=0.35, n_state_volumes=3, broken_fraction=0.1,
)  # fmt: skip


def latents(n: int = 600) -> Latents:
    rng = np.random.default_rng(0)
    state, angle = rng.integers(0, 3, n), rng.uniform(-60, 60, (n, 1))
    latent = np.concatenate([np.tanh(angle / 40) + 0 * state[:, None], rng.normal(size=(n, 1))], 1)
    return Latents(latent, (state + 1) % 3 + 1, state, angle, (120.0,), None, None)


def test_perfect_latents_score_perfectly_whatever_their_names_and_shape() -> None:
    metrics = score_latents(latents())
    assert metrics["heterogeneity_state_ari"] == 1.0
    assert metrics["heterogeneity_coordinate1_rank_correlation"] == pytest.approx(1.0)
    assert metrics["heterogeneity_coordinate1_error_median_deg"] < 5
    assert metrics["heterogeneity_coordinate1_error_by_chance_deg"] == 30
    assert metrics["heterogeneity_fsc_area"] is None


def test_latents_of_chance_score_as_chance() -> None:
    rng = np.random.default_rng(1)
    found = latents()
    noise = replace(found, latent=rng.normal(size=(600, 2)), cluster=rng.integers(1, 4, 600))
    metrics = score_latents(noise)
    assert abs(metrics["heterogeneity_state_ari"]) < 0.02
    assert metrics["heterogeneity_coordinate1_rank_correlation"] < 0.12
    assert metrics["heterogeneity_coordinate1_error_median_deg"] == pytest.approx(30, abs=5)
    assert score_latents(None)["heterogeneity_particles"] is None


def test_a_full_turn_is_a_circle() -> None:
    """On a circle in the latents the angle is known everywhere, also where −180° meets 180°."""
    rng = np.random.default_rng(2)
    angle = rng.uniform(-180, 180, 1000)
    circle = np.stack([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))], 1)
    assert np.median(coordinate_error(circle, angle)) < 1.5
    assert np.median(coordinate_error(circle[:, :1], angle)) > 30  # the cosine alone is ambiguous
    assert np.median(coordinate_error(rng.normal(size=(1000, 3)), angle)) == pytest.approx(90, abs=8)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stack")
    particles(folder, cfg=SET)
    return folder


def write_results(stack: Path, results: Path, linear: bool) -> None:
    """A perfect (or, without ``linear``, ignorant) linear model of the composition, in a frame and hand of its own."""
    frame = Alignment(
        random_rotations(1, stack_generator())[0].double(), torch.tensor([0.5, -1.0, 0.3]).double(), True, 1.0
    )
    inverse = Alignment(frame.rotation.T, frame.rotation.T @ frame.shift, True, 1.0)
    known = read_truth(stack / "truth")
    variation = read_variation(stack / "truth", known)
    pixel, states = (
        known.pixel_size_angstrom,
        integers(read_table(stack / "truth" / "particles.star", "particles"), "emflowState"),
    )
    volumes = [
        torch.stack([variation.volume(int(r), 36, pixel) for r in np.flatnonzero(states == s)[:12]]).mean(0)
        for s in (0, 1)
    ]
    folder = results / "heterogeneity"
    parts = [volumes[0], volumes[1] - volumes[0]] if linear else [0.5 * (volumes[0] + volumes[1])]
    for name, part in zip(("mean", "component_01"), parts, strict=False):
        write_mrc(folder / f"{name}.mrc", apply_alignment(part, inverse).numpy(), pixel)
    tables = read_star(stack / "particles.star")
    rotations = mirror_rotations(known.rotations @ frame.rotation)
    table = tables["particles"].copy()
    from emflow.em.poses import matrix_to_euler

    for axis, name in enumerate(("Rot", "Tilt", "Psi")):
        table[f"rlnAngle{name}"] = matrix_to_euler(rotations)[:, axis].numpy()
    moved = (known.rotations @ frame.shift)[:, :2].numpy() * pixel
    for axis, name in enumerate("XY"):
        table[f"rlnOrigin{name}Angst"] = floats(table, f"rlnOrigin{name}Angst") - moved[:, axis]
    table["rlnImageName"] = [n.replace("@", f"@{stack}/") for n in table["rlnImageName"]]
    write_star(folder / "fit" / "particles.star", {"optics": tables["optics"], "particles": table})
    out = pd.DataFrame({"emflowParticleId": table["emflowParticleId"][::-1]})  # rows in another order
    if linear:
        out["emflowLatent1"] = states[::-1].clip(0)
        out["emflowCluster"] = 2 - states[::-1].clip(0)
    write_star(folder / "latents.star", {"particles": out.astype(object)})


def stack_generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def scored(stack: Path, results: Path, out: Path) -> dict[str, float | None]:
    score(stack / "truth", results, out)
    return json.loads((out / "metrics.json").read_text())


def test_a_stack_is_scored_in_the_results_own_frame(stack: Path, tmp_path: Path) -> None:
    write_results(stack, tmp_path / "good", linear=True)
    good = scored(stack, tmp_path / "good", tmp_path / "a")
    whole = (integers(read_table(stack / "truth" / "particles.star", "particles"), "emflowState") >= 0).sum()
    assert good["heterogeneity_particles"] == whole < 240
    assert good["heterogeneity_true_states"] == good["heterogeneity_clusters"] == 2
    assert good["heterogeneity_state_ari"] == 1.0
    assert good["heterogeneity_fsc_area"] > good["heterogeneity_mean_fsc_area"] + 0.01
    assert good["refine_particles"] is None
    write_results(stack, tmp_path / "blind", linear=False)
    blind = scored(stack, tmp_path / "blind", tmp_path / "b")
    assert blind["heterogeneity_state_ari"] is None
    assert good["heterogeneity_fsc_area_gain"] > 0.01
    assert blind["heterogeneity_fsc_area"] == pytest.approx(blind["heterogeneity_mean_fsc_area"])
    assert 0.3 < blind["heterogeneity_fsc_area"] < good["heterogeneity_fsc_area"]


def test_snr_of_known_mixtures() -> None:
    rng = torch.Generator().manual_seed(0)
    target, noise = torch.randn(2, 300, 300, generator=rng)
    for ratio in (0.01, 1.0, 30.0):
        image = 7.0 - 3.0 * (ratio**0.5 * target + noise)  # scale, sign and offset say nothing
        assert snr_db(image, target) == pytest.approx(10 * np.log10(ratio), abs=0.4)
    assert snr_db(noise, target) < -35
    assert snr_db(torch.zeros(9, 9), target[:9, :9]) == -120.0


def test_denoising_is_measured_against_raw_and_the_best_gaussian(
    tmp_path: Path, tiny_settings: SimulateSession
) -> None:
    cfg = tiny_settings.model_copy(update={"keep_clean": True, "snr": 0.3})
    session(tmp_path, cfg=cfg)
    rows = []
    for number in (1, 2, 3):
        name = f"sim_{number:05d}"
        clean = read_mrc(tmp_path / "truth" / "clean" / f"{name}.mrc")
        noise = np.random.default_rng(number).normal(0, 0.05 * clean.std(), clean.shape)
        write_mrc(
            tmp_path / "results" / "denoise" / "images" / f"{number}.mrc",
            clean + noise.astype(np.float32),
            5.0,
        )
        rows.append(
            (f"micrographs/{name}.mrc", tmp_path / "results" / "denoise" / "images" / f"{number}.mrc")
        )
    columns = pd.Index(["rlnMicrographName", "emflowDenoisedName"])
    table = pd.DataFrame(rows, columns=columns).astype(str).astype(object)
    write_star(tmp_path / "results" / "denoise" / "shard_00001.star", {"micrographs": table})
    metrics = scored(tmp_path, tmp_path / "results", tmp_path / "out")
    assert metrics["denoise_micrographs"] == 2  # without the one with carbon
    assert metrics["denoise_gain_over_raw_db"] > 8
    assert metrics["denoise_gain_over_gaussian_db"] > 3
    assert metrics["denoise_snr_db"] > metrics["denoise_gaussian_snr_db"] > metrics["denoise_raw_snr_db"]
    assert metrics["denoise_footprint_snr_db"] > metrics["denoise_footprint_gaussian_snr_db"]


def test_a_gaussian_as_denoiser_gains_nothing_over_the_best_gaussian() -> None:
    rng = torch.Generator().manual_seed(1)
    clean = torch.from_numpy(gaussian_filter(torch.randn(256, 256, generator=rng).numpy(), 4)) * 10
    raw = clean + 3 * torch.randn(256, 256, generator=rng)
    smooth = torch.from_numpy(gaussian_filter(raw.numpy(), 3.2))
    metrics = score_denoise([Restored(smooth, raw, clean, np.array([[100.0, 80.0]]))], 3.0, 120.0)
    assert abs(metrics["denoise_gain_over_gaussian_db"]) < 0.7
    same = score_denoise([Restored(raw, raw, clean, np.zeros((0, 2)))], 3.0, 120.0)
    assert same["denoise_gain_over_raw_db"] == pytest.approx(0)
    assert same["denoise_footprint_snr_db"] is None
    assert score_denoise([], 3.0, 120.0)["denoise_snr_db"] is None

"""A stack of particles: the images are what the truth says, however the run went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from emflow.em.fsc import fsc
from emflow.em.optics import ctf_values, rfft_frequencies
from emflow.em.poses import euler_to_matrix
from emflow.em.wiener import PosedImages, reconstruct_from_poses
from emflow.io.mrc import read_mrc
from emflow.io.particle_ctf import ctf_of
from emflow.io.particles import load_particles, read_images
from emflow.io.star import floats, integers, read_table
from emflow.simulate import outputs
from emflow.simulate.command import particles
from emflow.simulate.config import SimulateParticles
from emflow.simulate.project import Projector
from emflow.step import EmflowError

HINGE = SimulateParticles(
    mass_kda=130, n_domains=4, diameter_angstrom=110, box_px=36, n_particles=110, particles_per_micrograph=25,
    n_angles=1, snr=0.5, max_shift_px=1.5, n_state_volumes=4, keep_clean=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("particles")
    particles(folder, cfg=HINGE)
    return folder


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "truth" / "facts.json").read_text())


def poses(table: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
    angles = np.stack([floats(table, f"rlnAngle{a}") for a in ("Rot", "Tilt", "Psi")], 1)
    origins = np.stack([floats(table, f"rlnOrigin{a}Angst") for a in "XY"], 1)
    return euler_to_matrix(torch.from_numpy(angles)).float(), torch.from_numpy(origins).float()


def test_table_is_as_extract_writes_it(stack: Path) -> None:
    loaded = load_particles(stack / "particles.star")
    common = loaded.common_facts()
    assert (len(loaded), common.box_px) == (110, 36)
    assert common.pixel_size_angstrom == pytest.approx(1.5 * 110 / 36)
    assert loaded.table["emflowParticleId"].is_unique
    assert not [name for name in loaded.table if str(name).startswith(("emflowState", "emflowCoord"))]
    halves = loaded.table.groupby("rlnMicrographName")["rlnRandomSubset"].agg(["nunique", "first"])
    assert halves["nunique"].max() == 1
    assert halves["first"].tolist() == ["1", "2", "1", "2", "1"]
    truth = read_table(stack / "truth" / "particles.star", "particles")
    assert truth["emflowParticleId"].tolist() == loaded.table["emflowParticleId"].tolist()
    angles = floats(truth, "emflowCoordinate1")
    assert -180 <= angles.min() < -90
    assert 90 < angles.max() <= 180
    assert set(truth["emflowState"]) == {"0"}


def test_images_are_the_true_projection_and_white_noise(stack: Path) -> None:
    """The image less what truth/ alone predicts (bodies, motion, pose, CTF, scale) is noise of deviation 1."""
    known, loaded = facts(stack), load_particles(stack / "particles.star")
    truth = read_table(stack / "truth" / "particles.star", "particles")
    variation, pixel = known["variation"], known["pixel_size_angstrom"]
    fixed, moving = (
        Projector(torch.from_numpy(read_mrc(stack / "truth" / "bodies" / f"body_{b}.mrc")), pixel)
        for b in (0, 1)
    )
    rotations, origins = poses(loaded.table)
    axis = torch.tensor(variation["motion"]["axes"][0])
    pivot, centre = (
        torch.tensor(v) for v in (variation["motion"]["pivot_angstrom"], variation["centres_angstrom"][1])
    )
    turns = torch.stack([rodrigues(axis, a) for a in np.deg2rad(floats(truth, "emflowCoordinate1"))])
    shifts = -origins / pixel
    seen = (rotations @ ((turns @ (centre - pivot)) + pivot)[..., None])[:, :2, 0] / pixel
    images = fixed(rotations, shifts) + moving(rotations @ turns, shifts + seen)
    fy, fx = rfft_frequencies((36, 36), pixel)
    h = ctf_values(ctf_of(loaded), fy, fx) * torch.exp(-0.25 * 60 * (fx**2 + fy**2))
    clean = known["scale"] * torch.fft.irfft2(torch.fft.rfft2(images) * h, s=(36, 36))
    stored = torch.from_numpy(read_images(loaded))
    kept = torch.from_numpy(read_mrc(stack / "truth" / "clean.mrcs"))
    assert (kept - clean).square().mean() < 1e-4 * clean.square().mean()
    rest = stored - clean
    assert float(rest.std()) == pytest.approx(1.0, abs=0.01)
    assert float(rest[0].mean()) == pytest.approx(0, abs=4 / 36)
    assert abs(np.corrcoef(rest.flatten().numpy(), clean.flatten().numpy())[0, 1]) < 0.01
    measured = float(clean.flatten(1).var(1).mean() / rest.flatten(1).var(1).mean())
    assert known["snr_in_box"] == pytest.approx(measured, rel=1e-3)
    assert measured == pytest.approx(0.5, rel=0.05)


def rodrigues(axis: torch.Tensor, angle: float) -> torch.Tensor:
    x, y, z = axis.tolist()
    k = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return torch.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def test_reconstruction_with_the_table_gives_the_mean_volume(stack: Path) -> None:
    loaded = load_particles(stack / "particles.star")
    rotations, origins = poses(loaded.table)
    pixel = loaded.common_facts().pixel_size_angstrom
    images = torch.from_numpy(read_mrc(stack / "truth" / "clean.mrcs"))
    batch = PosedImages(images, rotations, origins / pixel, ctf_of(loaded))
    volume = reconstruct_from_poses(iter([batch]), 36, pixel)
    assert fsc(volume, torch.from_numpy(read_mrc(stack / "truth" / "volume.mrc")))[2:8].min() > 0.85


def test_a_killed_run_resumes_to_the_same_bytes(
    stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = outputs.render, []

    def failing(cfg: Any, bodies: Any, piece: Any, device: Any) -> Any:
        calls.append(piece.index)
        if piece.index == 3:
            raise KeyboardInterrupt
        return real(cfg, bodies, piece, device)

    monkeypatch.setattr(outputs, "render", failing)
    with pytest.raises(KeyboardInterrupt):
        particles(tmp_path, cfg=HINGE)
    assert not (tmp_path / "particles.star").exists()
    calls.clear()
    monkeypatch.setattr(
        outputs,
        "render",
        lambda cfg, bodies, piece, device: (calls.append(piece.index), real(cfg, bodies, piece, device))[1],
    )
    particles(tmp_path, cfg=HINGE)
    assert calls == [3, 4]
    files = [
        p.relative_to(stack) for p in sorted(stack.rglob("*.*")) if p.is_file() and not p.name.startswith(".")
    ]
    assert (
        len(files) == 4 + 2 + 2 + 1 + 4
    )  # states, bodies, stacks, states.star, tables with volume and facts
    assert all((stack / f).read_bytes() == (tmp_path / f).read_bytes() for f in files)


def test_states_of_a_series_of_files(tmp_path: Path) -> None:
    """Files share one frame; the second state lacks an atom group, at its place and nowhere else."""
    rng = np.random.default_rng(0)
    core, arm = rng.normal(0, 12, (150, 3)), rng.normal(0, 5, (60, 3)) + np.array([35, 0, 0])
    atoms = np.concatenate([core, arm]) + np.array([70, 10, 0])
    for number, count in ((1, 210), (2, 150)):
        lines = [
            f"ATOM  {i + 1:5d}  CA  ALA A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C"
            for i, (x, y, z) in enumerate(atoms[:count])
        ]
        (tmp_path / f"{number}.pdb").write_text("\n".join([*lines, "END", ""]))
    cfg = SimulateParticles(
        models=(tmp_path / "1.pdb", tmp_path / "2.pdb"), populations=(1.0, 3.0), n_particles=200, box_px=32,
        pixel_size_angstrom=6.0,
    )  # fmt: skip
    particles(tmp_path / "out", cfg=cfg)
    table = read_table(tmp_path / "out" / "truth" / "particles.star", "particles")
    assert (integers(table, "emflowState") == 1).mean() == pytest.approx(0.75, abs=0.08)
    states = read_table(tmp_path / "out" / "truth" / "states" / "states.star", "states")
    assert states["emflowPopulation"].astype(float).tolist() == [0.25, 0.75]
    one, two = (read_mrc(tmp_path / "out" / "truth" / "states" / n) for n in states["rlnReferenceImage"])
    difference = np.where(one - two > 0.3 * (one - two).max(), one - two, 0.0)
    line = (np.arange(32) - 16) * 6.0
    centre = [np.average(line, weights=difference.sum(axes)) for axes in ((0, 1), (0, 2), (1, 2))]
    away = atoms[150:].mean(0) - atoms.mean(0)  # about the first file's centre
    assert centre == pytest.approx(away.tolist(), abs=2.5)
    mean = read_mrc(tmp_path / "out" / "truth" / "volume.mrc")
    assert np.allclose(mean, 0.25 * one + 0.75 * two, atol=1e-4)
    assert facts(tmp_path / "out")["specimen"] == "1.pdb, 2.pdb"


def test_homogeneous_and_empty_stacks(tmp_path: Path) -> None:
    base = HINGE.model_copy(update={"n_angles": 0, "keep_clean": False, "n_particles": 0})
    particles(tmp_path / "a", cfg=base)
    assert len(load_particles(tmp_path / "a" / "particles.star", images=False)) == 0
    assert facts(tmp_path / "a")["snr_in_box"] is None
    assert not (tmp_path / "a" / "truth" / "states").exists()
    with pytest.raises(EmflowError, match="Raise simulate.particles.box_px"):
        particles(tmp_path / "b", cfg=base.model_copy(update={"pixel_size_angstrom": 1.0}))
    with pytest.raises(EmflowError, match="not both"):
        particles(tmp_path / "b", cfg=base.model_copy(update={"model": Path("a"), "models": (Path("b"),)}))

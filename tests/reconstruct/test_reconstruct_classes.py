"""Classes by files: known ones are found by both halves, none are found where there are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from emflow.em.optics import Ctf
from emflow.em.poses import angular_distance_deg, matrix_to_euler, quaternion_to_matrix
from emflow.em.symmetry import symmetry_operators
from emflow.io.mrc import UNRESTORED_LABEL, read_header, read_mrc, write_mrc
from emflow.io.particle_images import poses_of
from emflow.io.particles import load_particles
from emflow.io.star import integers, read_star, write_star
from emflow.reconstruct.command import classes
from emflow.reconstruct.config import ReconstructClasses
from emflow.step import EmflowError, Run

RUN = Run(threads=1, device="cpu")
BOX, PIXEL, DIAMETER = 32, 6.0, 120.0
QUICK = {"n_starts": 1, "n_iterations": 16, "diameter_angstrom": DIAMETER, "resolution_angstrom": 20.0}


def lumps(symmetry: str = "C1") -> Tensor:
    """Places of the specimen's lumps (x, y, z), in pixels, the removable one last."""
    random = torch.Generator().manual_seed(3)
    atoms = torch.randn(8, 3, generator=random)
    atoms = atoms / atoms.norm(dim=1, keepdim=True) * (3 + 5 * torch.rand(8, 1, generator=random))
    return (atoms @ symmetry_operators(symmetry).float()).transpose(0, 1).reshape(-1, 3)


def density(atoms: Tensor) -> Tensor:
    """Gaussians at atoms, (n, n, n)."""
    line = (torch.arange(BOX) - BOX // 2).float()
    x, y, z = (torch.exp(-((line - atoms[:, i : i + 1]) ** 2) / (2 * 1.6**2)) for i in range(3))
    return torch.einsum("az,ay,ax->zyx", z, y, x)


@pytest.fixture(scope="session")
def make_mixture(
    make_particles: Callable, project: Callable
) -> Callable[..., tuple[Path, np.ndarray, Tensor]]:
    """Write particles of several volumes with their poses: folder, volumes, count, signal-to-noise ratio."""

    def make(folder: Path, volumes: list[Tensor], count: int, snr: float) -> tuple[Path, np.ndarray, Tensor]:
        star = make_particles(folder, count, 0.0).star
        random = torch.Generator().manual_seed(9)
        q = torch.randn(count, 4, generator=random)
        rotations = quaternion_to_matrix(q / q.norm(dim=1, keepdim=True))
        state = torch.randint(0, len(volumes), (count,), generator=random)
        defocus = 1.0 + 0.15 * (torch.arange(count) * 10 // count)
        ctf = Ctf(defocus + 0.02, defocus - 0.02, 30.0 + 0 * defocus)
        images = torch.empty(count, BOX, BOX)
        for number, volume in enumerate(volumes):
            own = state == number
            images[own] = project(volume, rotations[own], torch.zeros(int(own.sum()), 2), ctf[own])
        images *= (snr / images.var(dim=(1, 2)).mean()) ** 0.5 if snr else 0.0
        images += torch.randn(images.shape, generator=random)
        write_mrc(folder / "particles.mrcs", images.numpy(), PIXEL)
        tables = read_star(star)
        angles = matrix_to_euler(rotations)
        for i, name in enumerate(("Rot", "Tilt", "Psi")):
            tables["particles"][f"rlnAngle{name}"] = [f"{v:.6f}" for v in angles[:, i].tolist()]
        write_star(star, tables)
        return star, state.numpy(), rotations

    return make


def verdict_of(folder: Path) -> dict[str, str]:
    return json.loads((folder / "verdicts.json").read_text())[0]


def labels_of(folder: Path) -> np.ndarray:
    return integers(read_star(folder / "particles.star")["particles"], "rlnClassNumber")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, make_mixture: Callable) -> tuple[Path, np.ndarray, Path]:
    """A mixture of three, sorted at its true poses."""
    folder = tmp_path_factory.mktemp("three")
    atoms = lumps()
    volumes = [density(atoms), density(atoms[1:]), density(atoms[:-1])]
    star, state, _ = make_mixture(folder, volumes, 360, 0.8)
    cfg = ReconstructClasses(n_classes=3, poses="fixed", **QUICK)
    classes(star, folder / "classes", cfg=cfg, run=RUN)
    return folder / "classes", state, star


def test_known_classes_are_found_by_both_halves(three: tuple) -> None:
    folder, state, star = three
    assert adjusted_rand_score(state, labels_of(folder)) > 0.9
    assert verdict_of(folder)["verdict"] == "pass", verdict_of(folder)
    before, after = read_star(star)["particles"], read_star(folder / "particles.star")["particles"]
    assert before["emflowOdd"].tolist() == after["emflowOdd"].tolist()
    table = read_star(folder / "classes.star")["classes"]
    assert table["emflowParticles"].astype(int).sum() == 360
    assert (table["emflowStability"].astype(float) > 0.8).all()


def test_each_class_has_its_particles_and_two_raw_halves(three: tuple) -> None:
    folder, _, _ = three
    ids = []
    for number in (1, 2, 3):
        own = folder / f"class_{number:02d}"
        table = read_star(own / "particles.star")["particles"]
        assert set(table["rlnClassNumber"]) == {str(number)}
        assert (table["rlnMaxValueProbDistribution"].astype(float) > 0.3).all()
        ids += table["emflowParticleId"].tolist()
        assert UNRESTORED_LABEL in read_header(own / "half1.mrc").labels
        half1, half2 = (read_mrc(own / f"half{h}.mrc") for h in (1, 2))
        assert np.corrcoef(half1.ravel(), half2.ravel())[0, 1] > 0.3
        assert (own / "fsc.star").exists()
    everyone = read_star(folder / "particles.star")["particles"]["emflowParticleId"]
    assert sorted(ids) == sorted(everyone)


def test_same_input_gives_the_same_bytes_and_fewer_classes_leave_no_old_ones(
    three: tuple, tmp_path: Path
) -> None:
    folder, _, star = three
    (tmp_path / "class_04").mkdir()
    classes(star, tmp_path, cfg=ReconstructClasses(n_classes=3, poses="fixed", **QUICK), run=RUN)
    for name in ("particles.star", "metrics.json", "class_01/half1.mrc", "class_03/half2.mrc"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name
    assert not (tmp_path / "class_04").exists()


@pytest.mark.parametrize("snr", [0.8, 0.0])
def test_alike_particles_and_noise_have_no_classes(
    tmp_path: Path, make_mixture: Callable, snr: float
) -> None:
    star, _, _ = make_mixture(tmp_path, [density(lumps())], 240, snr)
    cfg = ReconstructClasses(n_classes=3, poses="fixed", **QUICK)
    classes(star, tmp_path / "out", cfg=cfg, run=RUN)
    first = verdict_of(tmp_path / "out")
    assert first["verdict"] == "fail", first
    assert "No distinct classes" in first["evidence"]


def test_poses_are_found_from_one_start_map(three: tuple, tmp_path: Path) -> None:
    """Blind: the poses are taken away; the mean map starts both halves."""
    _, state, star = three
    tables = read_star(star)
    true = poses_of(load_particles(star), PIXEL)[0]
    kept = [name for name in tables["particles"] if "rlnAngle" not in str(name)]
    tables["particles"] = tables["particles"][kept]
    blind = tmp_path / "blind.star"
    (tmp_path / "particles.mrcs").write_bytes((star.parent / "particles.mrcs").read_bytes())
    write_star(blind, tables)
    atoms = lumps()
    write_mrc(tmp_path / "start.mrc", 7 * density(atoms).numpy(), PIXEL)
    cfg = ReconstructClasses(n_classes=3, poses="global", pose_rounds=1, shift_fraction=0.02, **QUICK)
    classes(blind, tmp_path / "out", start=tmp_path / "start.mrc", cfg=cfg, run=RUN)
    found, _ = poses_of(load_particles(tmp_path / "out" / "particles.star"), PIXEL)
    assert angular_distance_deg(found, true).median() < 6
    assert adjusted_rand_score(state, labels_of(tmp_path / "out")) > 0.7


def test_a_pseudo_symmetry_is_relaxed(tmp_path: Path, make_mixture: Callable) -> None:
    """Twofold but for one lump: given poses that are off by the twofold at random, the right ones come back."""
    atoms = lumps("C2")
    star, _, true = make_mixture(tmp_path, [density(atoms[:-1])], 300, 1.0)
    tables = read_star(star)
    flip = torch.rand(300, generator=torch.Generator().manual_seed(2)) < 0.5
    group = symmetry_operators("C2").float()
    angles = matrix_to_euler(true @ group[flip.long()])
    for i, name in enumerate(("Rot", "Tilt", "Psi")):
        tables["particles"][f"rlnAngle{name}"] = [f"{v:.6f}" for v in angles[:, i].tolist()]
    write_star(star, tables)
    cfg = ReconstructClasses(n_classes=1, poses="fixed", relax_symmetry="C2", **QUICK)
    classes(star, tmp_path / "out", cfg=cfg, run=RUN)
    found, _ = poses_of(load_particles(tmp_path / "out" / "particles.star"), PIXEL)
    right = max(float((angular_distance_deg(found @ g, true) < 1).float().mean()) for g in group)
    assert right > 0.9


def test_only_what_differs_within_the_mask_decides(tmp_path: Path, make_mixture: Callable) -> None:
    """Two lumps come and go, independently of each other; the mask holds the weaker one's place."""
    atoms = lumps()
    first, last = density(atoms[:1]), density(atoms[-1:])
    rest = density(atoms[1:-1])
    volumes = [rest, rest + first, rest + 0.8 * last, rest + first + 0.8 * last]
    star, state, _ = make_mixture(tmp_path, volumes, 360, 0.8)
    write_mrc(tmp_path / "mask.mrc", (last / last.max() * 3).clamp(max=1).numpy(), PIXEL)
    cfg = ReconstructClasses(n_classes=2, poses="fixed", mask=tmp_path / "mask.mrc", **QUICK)
    classes(star, tmp_path / "out", cfg=cfg, run=RUN)
    found = labels_of(tmp_path / "out")
    assert adjusted_rand_score(state >= 2, found) > 0.8
    assert abs(adjusted_rand_score(state % 2, found)) < 0.1
    half1, half2 = (read_mrc(tmp_path / "out" / f"class_0{k}" / "half1.mrc") for k in (1, 2))
    assert np.isfinite(half1).all()
    assert np.isfinite(half2).all()


def test_poses_and_starts_that_lack_are_named(tmp_path: Path, make_particles: Callable) -> None:
    star = make_particles(tmp_path, 60, 0.4).star
    with pytest.raises(EmflowError, match="rlnAngleRot"):
        classes(star, tmp_path / "out", cfg=ReconstructClasses(n_classes=2), run=RUN)
    with pytest.raises(EmflowError, match="--start"):
        classes(star, tmp_path / "out", cfg=ReconstructClasses(n_classes=2, poses="global"), run=RUN)


def test_a_set_without_particles_flows_through(tmp_path: Path, make_particles: Callable) -> None:
    star = make_particles(tmp_path, 20, 0.4).star
    classes(star, tmp_path / "out", cfg=ReconstructClasses(n_classes=2), run=RUN)
    assert verdict_of(tmp_path / "out")["verdict"] == "fail"
    assert (tmp_path / "out" / "classes.star").exists()

"""The point group of a map found without symmetry: known groups in any frame, none, and noise."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from emflow.em.fsc import fsc
from emflow.em.poses import euler_to_matrix, matrix_to_euler, quaternion_to_matrix
from emflow.em.slices import HalfPlane, volume_spectrum
from emflow.em.symmetry import symmetry_operators
from emflow.em.volume_align import Alignment, apply_alignment
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import floats, read_star, write_star
from emflow.reconstruct.command_symmetry import symmetry
from emflow.reconstruct.config import ReconstructSymmetry
from emflow.reconstruct.symmetry import search_symmetry
from emflow.step import Run

from .conftest import specimen

RADIUS, BAND, PIXEL = 10.0, 9, 6.0


def turned_halves(group: str | None) -> list[Tensor]:
    """Half maps of a specimen away from its axes and off its centre; of noise alone without a group."""
    random = torch.Generator().manual_seed(5)
    q = torch.randn(4, generator=random)
    rotation = quaternion_to_matrix(q / q.norm()).double()
    volume = torch.zeros(32, 32, 32)
    if group is not None:
        move = Alignment(rotation, torch.tensor([0.7, -0.5, 0.4]).double(), False, 1.0)
        volume = apply_alignment(specimen(group), move)
        volume = volume / volume.std()
    return [volume + 0.5 * torch.randn(volume.shape, generator=random) for _ in range(2)]


@pytest.mark.parametrize("group", ["C3", "D2", "O"])
def test_the_group_is_found_and_the_frame_is_its_own(group: str) -> None:
    halves = turned_halves(group)
    best = search_symmetry(halves[0], halves[1], RADIUS, BAND)[0]
    assert (best.symmetry, best.holds) == (group, True)
    # measured: C3 0.94, D2 0.95, O 0.84; at random frames 0.05 ± 0.15, 0.03 ± 0.12, 0.10 ± 0.05
    assert best.random_ratio + 4 * best.random_deviation < best.ratio
    aligned = apply_alignment(halves[0], best.frame)
    for member in symmetry_operators(group)[1:3]:
        again = apply_alignment(aligned, Alignment(member, torch.zeros(3).double(), False, 1.0))
        assert (
            fsc(again, aligned)[2:7].min() > 0.85
        )  # measured: 0.92 to 0.96; frames 5° off give 0.81 at most


def test_a_map_without_symmetry_is_c1() -> None:
    halves = turned_halves("C1")
    scored = search_symmetry(halves[0], halves[1], RADIUS, BAND)
    assert not any(one.holds for one in scored)
    assert max(one.ratio for one in scored) < 0.5  # measured: 0.33 (C2), the best of all frames of 17 groups


def write_folder(folder: Path, halves: list[Tensor]) -> Tensor:
    """Half maps and particles with poses, as a reconstruction leaves them; the poses."""
    folder.mkdir()
    for number, half in enumerate(halves, start=1):
        write_mrc(folder / f"half{number}.mrc", half.numpy(), PIXEL)
    q = torch.randn(20, 4, generator=torch.Generator().manual_seed(2)).double()
    rotations = quaternion_to_matrix(q / q.norm(dim=1, keepdim=True))
    angles = matrix_to_euler(rotations)
    table = pd.DataFrame(
        {
            f"rlnAngle{name}": [f"{v:.5f}" for v in angles[:, i]]
            for i, name in enumerate(("Rot", "Tilt", "Psi"))
        }
    ).assign(rlnOriginXAngst="0.0", rlnOriginYAngst="0.0", emflowOdd="0012")
    write_star(folder / "particles.star", {"particles": table})
    return rotations


def test_maps_and_poses_come_into_the_groups_frame(tmp_path: Path) -> None:
    halves = turned_halves("D2")
    before = write_folder(tmp_path / "start", halves)
    cfg = ReconstructSymmetry(diameter_angstrom=2 * RADIUS * PIXEL)
    symmetry(tmp_path / "start", tmp_path / "out", cfg=cfg, run=Run(threads=1, device="cpu"))
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["order"] == 4
    ranking = read_star(tmp_path / "out" / "symmetry.star")["symmetry"]
    assert ranking["emflowSymmetry"].iloc[0] == "D2"
    table = read_star(tmp_path / "out" / "particles.star")["particles"]
    assert list(table["emflowOdd"]) == ["0012"] * 20
    angles = torch.stack([torch.from_numpy(floats(table, f"rlnAngle{n}")) for n in ("Rot", "Tilt", "Psi")], 1)
    origins = torch.stack([torch.from_numpy(floats(table, f"rlnOrigin{a}Angst")) for a in "XY"], 1) / PIXEL
    plane = HalfPlane.build(32, BAND)
    old = volume_spectrum(halves[0], BAND).slices(before.float(), plane)
    aligned = torch.from_numpy(read_mrc(tmp_path / "out" / "half1.mrc"))
    new = volume_spectrum(aligned, BAND).slices(euler_to_matrix(angles).float(), plane)
    phases = plane.phases(-origins.float())
    moved = torch.complex(new[:, 0], new[:, 1]) * torch.complex(phases[:, 0], phases[:, 1])
    old_complex = torch.complex(old[:, 0], old[:, 1])
    product = (moved.conj() * old_complex).real.sum(1)
    assert (product / (moved.abs().norm(dim=1) * old_complex.abs().norm(dim=1))).min() > 0.95


def test_noise_has_no_symmetry_to_speak_of(tmp_path: Path) -> None:
    write_folder(tmp_path / "start", turned_halves(None))
    cfg = ReconstructSymmetry(diameter_angstrom=2 * RADIUS * PIXEL)
    symmetry(tmp_path / "start", tmp_path / "out", cfg=cfg, run=Run(threads=1, device="cpu"))
    verdicts = json.loads((tmp_path / "out" / "verdicts.json").read_text())
    assert verdicts[0]["verdict"] == "unknown"
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["order"] == 1

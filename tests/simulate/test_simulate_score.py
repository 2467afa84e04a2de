"""Scores: perfect results score perfectly, shuffled ones as chance, whatever frame they are in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.fourier import resample
from emflow.em.poses import matrix_to_euler, mirror_rotations
from emflow.em.symmetry import symmetry_operators
from emflow.em.volume_align import Alignment
from emflow.em.wiener import reconstruct_from_poses
from emflow.io.micrographs import optics_table
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import Tables, concat, floats, read_star, write_star
from emflow.simulate.command import score
from emflow.simulate.compare import defocus_errors
from emflow.simulate.inputs import read_stage
from emflow.simulate.match import match_positions
from emflow.simulate.poses import pose_errors
from emflow.simulate.project import random_rotations
from emflow.step import OpticsFacts

PIXEL, BOX = 5.0, 34
FRAME = Alignment(
    random_rotations(1, generator(9))[0].double(), torch.tensor([0.4, -0.3, 0.5]).double(), True, 1.0
)


def test_matching_is_one_to_one_and_nearest_first() -> None:
    truth = np.array([[0.0, 0], [10, 0], [50, 50]])
    found = np.array([[1.0, 0], [4, 0], [9, 0], [30, 30]])
    i, j = match_positions(found, truth, 5.0)
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 0), (2, 1)]
    assert len(match_positions(found[:0], truth, 5.0)[0]) == 0


@pytest.mark.parametrize(("symmetry", "mirrored"), [("C1", False), ("C1", True), ("D3", False), ("O", True)])
def test_pose_error_ignores_frame_hand_and_symmetry(symmetry: str, mirrored: bool) -> None:
    truth = random_rotations(80, generator(1)).double()
    frame = random_rotations(1, generator(2))[0].double()
    shift = torch.tensor([3.0, -2.0, 5.0]).double()
    group = symmetry_operators(symmetry)
    mates = truth @ group[torch.randint(len(group), (80,), generator=generator(3))]
    found = mates @ frame  # A_found = A·R, so that A = A_found·Rᵀ
    found = mirror_rotations(found) if mirrored else found
    # the particle's centre in the found frame lies at ``shift`` (one that symmetry leaves in place)
    along = group.mean(0) @ shift
    offsets = (truth @ along)[:, :2]
    errors = pose_errors(found, truth, offsets, symmetry)
    assert errors.mirrored == mirrored or symmetry == "O"
    assert errors.angle_deg.max() < 1e-3
    assert errors.shift_angstrom.max() < 1e-3


def test_pose_error_measures_the_error_despite_outliers() -> None:
    truth = random_rotations(200, generator(4)).double()
    angle = torch.deg2rad(torch.tensor(7.0)).double()
    wobble = torch.tensor([[1, 0, 0], [0, angle.cos(), -angle.sin()], [0, angle.sin(), angle.cos()]]).double()
    axes = random_rotations(200, generator(5)).double()
    found = axes @ wobble @ axes.mT @ truth
    found[:60] = random_rotations(60, generator(6)).double()  # 30 % wrong
    offsets = torch.randn(200, 2, generator=generator(7)).double()
    errors = pose_errors(found, truth, offsets)
    assert errors.angle_deg[60:].median() == pytest.approx(7.0, abs=0.7)
    assert errors.angle_deg[:60].median() > 60


def test_shuffled_poses_score_as_chance() -> None:
    truth = random_rotations(300, generator(8)).double()
    found = truth[torch.randperm(300, generator=generator(9))]
    errors = pose_errors(found, truth, torch.zeros(300, 2))
    assert errors.angle_deg.median() > 80


def test_astigmatism_error_knows_directions() -> None:
    truth = (np.array([10300.0]), np.array([9700.0]), np.array([20.0]))
    swapped = (truth[1], truth[0], truth[2] + 90)  # the same ellipse
    assert [float(e[0]) for e in defocus_errors(swapped, truth)] == pytest.approx([0, 0], abs=1e-6)
    turned = (truth[0] + 50, truth[1] + 50, truth[2] + 90)
    assert [float(e[0]) for e in defocus_errors(turned, truth)] == pytest.approx([50, 1200])


def test_resampled_volume_keeps_its_place_and_mean() -> None:
    line = (torch.arange(32) - 16).float()
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    volume = torch.exp(-((x - 4) ** 2 + (y + 4) ** 2 + z**2) / (2 * 2.5**2))
    binned = resample(volume, 2.0, 24, 4.0)  # twice the voxel, a wider box
    assert int(binned.argmax()) == (12 * 24 + 10) * 24 + 14
    assert float(binned.sum()) * 8 == pytest.approx(float(volume.sum()), rel=1e-3)
    assert float(binned.max()) == pytest.approx(1.0, abs=0.05)


def write_results(session: Path, results: Path) -> None:
    """Results as a perfect pipeline would write them, in a frame and hand of its own."""
    truth = read_star(session / "truth" / "particles.star")
    micrographs = read_star(session / "truth" / "micrographs.star")["micrographs"]
    particles = truth["particles"]
    write_star(results / "ctf" / "shard_00001.star", {"micrographs": micrographs})
    write_star(results / "pick" / "shard_00001.star", {"micrographs": micrographs, "particles": particles})
    xy = np.stack([floats(particles, "rlnCoordinateX"), floats(particles, "rlnCoordinateY")], 1)
    corner = np.floor(xy).astype(int) - BOX // 2 + BOX
    cache = {
        n: np.pad(read_mrc(session / n), BOX, mode="edge") for n in particles["rlnMicrographName"].unique()
    }
    boxes = np.stack(
        [
            cache[n][y : y + BOX, x : x + BOX]
            for n, (x, y) in zip(particles["rlnMicrographName"], corner, strict=True)
        ]
    )
    folder = results / "reconstruct" / "refine"
    flat = boxes - boxes.mean((1, 2), keepdims=True)
    write_mrc(folder / "images.mrcs", -flat / flat.std((1, 2), keepdims=True), PIXEL)
    angles = np.stack([floats(particles, f"rlnAngle{a}") for a in ("Rot", "Tilt", "Psi")], 1)
    true = euler(angles)
    found = mirror_rotations(true @ FRAME.rotation)  # in a frame that FRAME brings onto the truth's
    origin = -(xy - np.floor(xy)) * PIXEL - (true @ FRAME.shift)[:, :2].numpy() * PIXEL
    table = particles.assign(rlnImageName=[f"{i + 1:06d}@images.mrcs" for i in range(len(xy))])
    for axis, name in enumerate(("Rot", "Tilt", "Psi")):
        table[f"rlnAngle{name}"] = matrix_to_euler(found)[:, axis].numpy()
    table["rlnOriginXAngst"], table["rlnOriginYAngst"] = origin[:, 0], origin[:, 1]
    optics = optics_table(OpticsFacts(pixel_size_angstrom=PIXEL))
    optics = optics.assign(rlnImagePixelSize=PIXEL, rlnImageSize=BOX)
    write_star(folder / "particles.star", {"optics": optics, "particles": table})
    stage = read_stage(folder)
    assert stage is not None
    shifts = torch.from_numpy(origin / PIXEL).float()
    rows = np.arange(len(xy))
    write_mrc(
        folder / "map.mrc",
        reconstruct_from_poses(stage.images(rows, found.float(), shifts), BOX, PIXEL),
        PIXEL,
    )


def euler(angles: np.ndarray) -> Tensor:
    from emflow.em.poses import euler_to_matrix

    return euler_to_matrix(torch.from_numpy(angles))


@pytest.fixture(scope="module")
def perfect(tiny_session: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_results(tiny_session, folder)
    return folder


def scored(session: Path, results: Path, out: Path) -> dict[str, float | None]:
    score(session / "truth", results, out)
    return json.loads((out / "metrics.json").read_text())


def test_perfect_results_score_perfectly(tiny_session: Path, perfect: Path, tmp_path: Path) -> None:
    metrics = scored(tiny_session, perfect, tmp_path)
    assert metrics["pick_f1"] == metrics["pick_precision"] == metrics["pick_recall"] == 1.0
    assert metrics["pick_offset_median_angstrom"] == 0
    assert metrics["ctf_defocus_error_max_angstrom"] == metrics["ctf_astigmatism_error_median_angstrom"] == 0
    assert metrics["refine_true_particles"] == metrics["particles"]
    assert metrics["refine_pose_error_p90_deg"] == pytest.approx(0, abs=0.01)
    assert metrics["refine_shift_error_p90_angstrom"] == pytest.approx(0, abs=0.01)
    assert metrics["refine_hand_inverted"] == 1
    assert metrics["refine_over_attainable_ratio"] == pytest.approx(1.0, abs=0.08)
    assert metrics["refine_attainable_fsc05_angstrom"] < 30
    assert json.loads((tmp_path / "facts.json").read_text())["n_particles"] == metrics["particles"]


def test_partial_results_are_null_not_errors(tiny_session: Path, perfect: Path, tmp_path: Path) -> None:
    nothing = scored(tiny_session, tmp_path / "none", tmp_path / "a")
    assert nothing.keys() == scored(tiny_session, perfect, tmp_path / "b").keys()
    assert {name for name, value in nothing.items() if value is not None} == {
        "particles", "micrographs", "ctf_micrographs",
    }  # fmt: skip
    (tmp_path / "empty" / "pick").mkdir(parents=True)
    tables: Tables = read_star(perfect / "pick" / "shard_00001.star")
    tables["particles"] = tables["particles"].iloc[:0]
    write_star(tmp_path / "empty" / "pick" / "shard_00001.star", tables)
    none_found = scored(tiny_session, tmp_path / "empty", tmp_path / "c")
    assert (none_found["pick_found"], none_found["pick_recall"], none_found["pick_precision"]) == (
        0,
        0.0,
        None,
    )


def test_wrong_picks_cost_precision_and_junk_is_counted(
    tiny_session: Path, perfect: Path, tmp_path: Path
) -> None:
    tables = read_star(perfect / "pick" / "shard_00001.star")
    mask = read_mrc(tiny_session / "truth" / "masks" / "sim_00002.mrc")
    y, x = np.argwhere(mask > 0.5)[:10].T
    wrong = pd.DataFrame(
        {"rlnMicrographName": "elsewhere/sim_00002.mrc", "rlnCoordinateX": x, "rlnCoordinateY": y},
        dtype=object,
    )
    true = len(tables["particles"])
    tables["particles"] = concat([tables["particles"], wrong])
    write_star(tmp_path / "pick" / "shard_00001.star", tables)
    metrics = scored(tiny_session, tmp_path, tmp_path / "out")
    assert metrics["pick_recall"] == 1.0
    assert metrics["pick_precision"] == pytest.approx(true / (true + 10))
    assert metrics["pick_on_junk"] == 10

"""The hand of maps with helices, of their mirror images, and of maps that hold none."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emflow.device import generator
from emflow.em.masks import soft_sphere
from emflow.io.mrc import write_mrc
from emflow.simulate.density import potential
from emflow.simulate.specimen import Atoms
from emflow.simulate.structure import alpha_helix
from emflow.step import EmflowError
from emflow.validate.command import maps
from emflow.validate.config import ValidateMaps
from emflow.validate.hand import CLAIM, measure_windings, right_probability
from emflow.validate.judge_model import judge_hand

_spec = importlib.util.spec_from_file_location("bundle", Path(__file__).with_name("bundle.py"))
assert _spec is not None
assert _spec.loader is not None
helices = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(helices)
N, VOXEL = helices.N, helices.VOXEL


def ice_map(seed: int, resolution: float) -> torch.Tensor:
    """Mean of noisy half maps of a helix bundle in ice."""
    model = helices.bundle(seed)
    electrons = np.tile([8.0, 7.0, 6.0, 8.0, 8.0, 21.0], len(model) // 6)
    atoms = Atoms(model.position, electrons, np.tile([0, 0, 0, 0, 0, 1.2], len(model) // 6))
    half1, half2 = helices.noisy_halves(potential(atoms, N, VOXEL, 60.0), resolution, seed)
    return (half1 + half2) / 2


def test_twenty_bundles_have_the_right_hand_and_their_mirror_images_the_wrong_one() -> None:
    right = wrong = 0
    for seed in range(10):
        resolution = (4.0, 4.5)[seed % 2]
        volume = ice_map(seed, resolution)
        for mirrored in (False, True):
            windings = measure_windings(volume.flip(seed % 3) if mirrored else volume, VOXEL, resolution)
            hand = 1 - windings.probability if mirrored else windings.probability
            right += hand >= 0.5
            wrong += hand <= 1 - CLAIM
    assert right >= 19
    assert wrong == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_is_claimed_at_ten_angstrom(seed: int) -> None:
    assert 1 - CLAIM < measure_windings(ice_map(seed, 10.0), VOXEL, 10.0).probability < CLAIM


def test_nothing_is_claimed_of_noise_or_a_ball() -> None:
    claims = 0
    for seed in range(3):
        noise = torch.randn(N, N, N, generator=generator(seed))
        windings = measure_windings((1 + noise) * soft_sphere(N, 16, 4), VOXEL, 4.0)
        assert len(windings.right) > 10
        claims += judge_hand(windings, 4.0).verdict != "unknown"
    assert claims == 0
    assert judge_hand(measure_windings(soft_sphere(N, 16, 4), VOXEL, 4.0), 4.0).verdict == "unknown"


def test_an_odd_mirror_exchanges_the_windings() -> None:
    """The inverted map has the same rods with the two strengths exchanged, up to interpolation."""
    volume = ice_map(0, 4.5)
    inverted = torch.roll(volume.flip((0, 1, 2)), (1, 1, 1), (0, 1, 2))
    one, two = measure_windings(volume, VOXEL, 4.5), measure_windings(inverted, VOXEL, 4.5)
    assert one.score == pytest.approx(-two.score, abs=0.3)


def test_a_single_ideal_helix_winds_one_way_only() -> None:
    """Noise-free, along an axis of the grid: nearly all power is in the right-handed component."""
    model = helices.bundle()
    helix = alpha_helix(20)
    one = replace(
        model, position=helix.reshape(-1, 3), **{
            name: getattr(model, name)[: helix.shape[0] * 6]
            for name in ("element", "name", "b_factor", "occupancy", "residue")
        },
    )  # fmt: skip
    windings = measure_windings(helices.density(one), VOXEL, 4.0)
    strongest = int(windings.right.argmax())
    assert abs(float(windings.axis[strongest, 2])) > 0.97
    assert float(windings.right[strongest]) > 20 * float(windings.left[strongest])


def test_probability_is_even_and_grows_with_the_score() -> None:
    assert right_probability(0.0, 20) == pytest.approx(0.5)
    assert right_probability(2.0, 20) == pytest.approx(1 - right_probability(-2.0, 20))
    steps = [right_probability(score, 20) for score in (0, 1, 2, 3, 4)]
    assert steps == sorted(steps)
    assert right_probability(2.2, 5) < CLAIM, "five rods, all alike, are not enough"


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_command_says_which_hand(tmp_path: Path, mirrored: bool) -> None:
    density = helices.density(helices.bundle(5))
    halves = helices.noisy_halves(density.flip(0) if mirrored else density, 4.5)
    for k in (0, 1):
        write_mrc(tmp_path / f"{k}.mrc", halves[k].numpy(), VOXEL)
    maps(tmp_path / "0.mrc", tmp_path / "1.mrc", tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "verdicts.json").read_text())
    row = next(row for row in rows if "hand" in row["question"])
    assert row["verdict"] == ("fail" if mirrored else "pass")
    assert (tmp_path / "out" / "figures" / "hand.png").exists()
    if not mirrored:
        maps(tmp_path / "0.mrc", tmp_path / "1.mrc", tmp_path / "off", cfg=ValidateMaps(hand=False))
        assert "hand of the map" not in (tmp_path / "off" / "verdicts.json").read_text()


def test_a_coarse_map_is_not_asked() -> None:
    row = judge_hand(None, 12.0)
    assert row.verdict == "unknown"
    assert "12.0 Å" in row.evidence


def test_a_model_that_is_no_model_stops_the_command(tmp_path: Path) -> None:
    halves = helices.noisy_halves(helices.density(helices.bundle()), 6)
    for k in (0, 1):
        write_mrc(tmp_path / f"{k}.mrc", halves[k].numpy(), VOXEL)
    (tmp_path / "model.cif").write_text("data_x\nloop_\n_a\n_b\n1 2 3\n")
    with pytest.raises(EmflowError, match=r"model\.cif"):
        maps(tmp_path / "0.mrc", tmp_path / "1.mrc", tmp_path / "out", model=tmp_path / "model.cif")

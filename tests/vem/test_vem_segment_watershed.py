"""Watershed, mergers, joined blocks and probability block by block, where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from emflow.nn.unet import UNet
from emflow.vem.agreement import agreement, joint_of
from emflow.vem.choose import calibration_error, choose_cut, choose_threshold, clear_level
from emflow.vem.config import VemSegment
from emflow.vem.membrane import MembraneNetwork, calibrate, targets
from emflow.vem.segment import Intensities, block_probability, block_segments, earlier_part, halo_of
from emflow.vem.stitch import divided, links, names, region
from emflow.vem.watershed import Cut, components, merged, segments


def _cells(shape: tuple[int, ...], number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Voronoi cells, and the probability of membrane that their borders would have."""
    rng = np.random.default_rng(seed)
    centres = rng.random((number, len(shape))) * shape
    at = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    far = np.linalg.norm(at[..., None, :] - centres, axis=-1)
    nearest = np.partition(far, 1, axis=-1)[..., :2]
    return far.argmin(-1) + 1, np.exp(-(((nearest[..., 1] - nearest[..., 0]) / 3) ** 2))


def _rand(found: np.ndarray, true: np.ndarray) -> float:
    return agreement(joint_of([(found, true)])).rand


def test_a_membrane_with_a_gap_still_divides_where_connected_parts_are_one():
    probability = np.zeros((40, 60), np.float32)
    probability[:, 29:31] = 0.95
    probability[18:21, 29:31] = 0.1
    halves = np.where(np.arange(60) < 30, 1, 2) * np.ones((40, 1), int)
    assert components(probability, 0.5).max() == 1
    assert _rand(segments(probability, Cut(0.5, 0.6)), halves) > 0.97


def test_many_cells_are_found_as_they_are():
    true, probability = _cells((96, 96), 18, seed=1)
    assert _rand(segments(probability, Cut(0.5, 0.5)), true) > 0.97
    true, probability = _cells((40, 40, 40), 8, seed=2)
    assert _rand(segments(probability, Cut(0.5, 0.5)), true) > 0.95


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_where_nothing_divides_there_is_one_segment(value):
    found = segments(np.full((20, 30), value, np.float32), Cut())
    assert found.shape == (20, 30)
    assert (found == 1).all()


def test_mergers_are_those_of_merging_the_nearest_pair_one_by_one():
    labels, _ = _cells((48, 48), 40, seed=3)
    probability = gaussian_filter(np.random.default_rng(4).random((48, 48)), 2)
    probability = (probability - probability.min()) / np.ptp(probability)
    got, expected = merged(labels, probability, 0.5), _merged_one_by_one(labels, probability, 0.5)
    assert 2 < expected.max() < 40
    assert _rand(got, expected) == pytest.approx(1.0)
    assert sorted(np.unique(got)) == list(range(1, got.max() + 1))


def _merged_one_by_one(labels: np.ndarray, probability: np.ndarray, below: float) -> np.ndarray:
    labels = labels.copy()
    while True:
        sums: dict[tuple[int, int], list[float]] = {}
        for a, b in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
            for i, j, p in zip(
                labels[a].ravel(),
                labels[b].ravel(),
                np.maximum(probability[a], probability[b]).ravel(),
                strict=True,
            ):
                if i != j:
                    sums.setdefault((min(i, j), max(i, j)), []).append(p)
        means = {pair: np.mean(values) for pair, values in sums.items()}
        nearest = min(means, key=means.__getitem__, default=None)
        if nearest is None or means[nearest] >= below:
            return np.unique(labels, return_inverse=True)[1].reshape(labels.shape) + 1
        labels[labels == nearest[1]] = nearest[0]


def test_small_segments_go_to_the_neighbour_that_least_divides_them_from():
    labels = np.ones((10, 20), int)
    labels[:, 10:] = 2
    labels[4:6, 9:11] = 3
    probability = np.full((10, 20), 0.9)
    probability[4:6, 8:10] = 0.7  # towards 1
    found = merged(labels, probability, 0.5, least_pixels=5)
    assert found.max() == 2
    assert found[5, 10] == found[0, 0] != found[0, 19]


def test_links_need_to_be_mutual_and_large():
    one = np.array([[1, 1, 1, 1, 2, 2, 3, 0]])
    other = np.array([[7, 7, 7, 8, 8, 8, 0, 9]])
    assert links(one, other, 0.5).tolist() == [[1, 7], [2, 8]]
    assert links(one, other, 1.0).tolist() == [[1, 7], [2, 8]]  # all of 7, all of 2
    assert links(np.array([1, 1, 1, 2, 2]), np.array([5, 6, 6, 6, 7]), 0.7).tolist() == []
    assert names(4, np.array([[2, 4], [4, 2]])).tolist() == [0, 1, 2, 3, 2]
    assert names(2, np.empty((0, 2), int)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("mode", "sides"), [("volume", (16, 16, 24)), ("linked", (8, 24, 16)), ("slices", (7, 48, 20))]
)
def test_blocks_are_joined_to_the_segments_of_the_whole(mode, sides):
    shape = (24, 48, 48)
    true, probability = _cells(shape, 6, seed=5)
    cfg = VemSegment(halo_px=12)
    whole, parts = (_by_blocks(probability, divided(shape, size), mode, cfg) for size in (shape, sides))
    assert whole.min() == parts.min() == 1
    if mode == "slices":
        assert parts.max() >= 24
        assert np.mean([_rand(a, b) for a, b in zip(parts, whole, strict=True)]) > 0.98
    else:
        assert _rand(whole, true) > 0.9
        assert _rand(parts, whole) > 0.95


def _by_blocks(probability: np.ndarray, blocks: list, mode: str, cfg: VemSegment) -> np.ndarray:
    # what a killed run left of later blocks must not matter
    provisional = np.full(probability.shape, 3, np.int64)
    base, pairs = 0, []
    for block in blocks:
        box = block.seen(halo_of(mode, cfg), probability.shape)
        earlier = earlier_part(provisional[region(box)], block.core, box)
        found = block_segments(probability[region(box)], earlier, (block.core, box), base, (mode, Cut(), cfg))
        provisional[region(block.core)] = found.labels
        base += found.number
        pairs.append(found.links)
    assert len(np.unique(provisional)) == base
    return names(base, np.concatenate(pairs))[provisional]


@pytest.fixture
def network() -> MembraneNetwork:
    """One that does something."""
    torch.manual_seed(1)
    made = UNet((4, 4, 8, 8), (1, 2))
    torch.nn.init.normal_(made.last.weight, std=0.3)
    return MembraneNetwork(made.eval(), slope=1.3, offset=-0.4)


@pytest.mark.parametrize("every_plane", [False, True])
def test_probability_in_blocks_is_that_of_the_whole(network, every_plane):
    shape = (5, 90, 43) if not every_plane else (9, 9, 12)
    volume = 50 + 10 * torch.randn(shape, generator=torch.Generator().manual_seed(2))
    given = Intensities(lambda box: volume[region(box)], shape, 50.0, 10.0)
    (one,) = divided(shape, (1000, 1000, 1000))
    whole = block_probability(given, one, network, every_plane)
    assert float(whole.std()) > 0.01
    got = torch.full(shape, float("nan"))
    for block in divided(shape, (3, 64, 24) if not every_plane else (8, 8, 8)):
        got[region(block.core)] = block_probability(given, block, network, every_plane)
    torch.testing.assert_close(got, whole, rtol=0, atol=1e-5)


def test_turned_planes_have_turned_probabilities(network):
    plane = torch.randn(32, 48, generator=torch.Generator().manual_seed(3))
    straight = network.whole_logits(plane)
    turned = network.whole_logits(plane.T.contiguous()).T
    torch.testing.assert_close(turned, straight, rtol=0, atol=1e-4)


def test_targets_of_masks_and_of_segments_that_touch():
    mask = np.array([[255, 255, 0, 255], [255, 255, 0, 255]], np.uint8)
    assert targets(mask).tolist() == [[1, 1, 0, 2], [1, 1, 0, 2]]
    touching = np.array([[4, 4, 4, 9, 9, 9]] * 2, np.uint8)
    assert targets(touching).tolist() == [[4, 4, 0, 0, 9, 9]] * 2


def test_calibration_finds_the_odds_that_made_the_labels():
    rng = torch.Generator().manual_seed(4)
    logits = 3 * torch.randn(200_000, generator=rng)
    happened = torch.rand(logits.shape, generator=rng) < torch.sigmoid(0.5 * logits - 1)
    assert calibrate(logits, happened) == pytest.approx((0.5, -1.0), abs=0.02)
    right = torch.sigmoid(0.5 * logits - 1).numpy()
    assert calibration_error(right, happened.numpy()) < 0.01
    assert calibration_error(torch.sigmoid(logits).numpy(), happened.numpy()) > 0.1
    assert calibration_error(np.array([0.2, 0.2, 1.0]), np.array([True, False, True])) == pytest.approx(0.2)


def test_half_of_the_expected_membrane_is_clear():
    probability = np.array([[0.0] * 60 + [0.2] * 20 + [0.7] * 10 + [0.9] * 10])
    level, share = clear_level(probability)  # a fifth is expected to be membrane
    assert (level, share) == pytest.approx((0.9, 0.1), abs=0.03)


def test_the_cut_is_chosen_by_what_the_labels_say():
    # everything that the network says is too low: the usual cut joins all
    true, probability = _cells((64, 64), 9, seed=6)
    low = [0.55 * probability]
    assert choose_threshold(low, [true]) < 0.55
    cut = choose_cut(low, [true], 20)
    assert _rand(segments(low[0], cut), true) > 0.95
    assert _rand(segments(low[0], Cut(0.5, 0.7)), true) < 0.5

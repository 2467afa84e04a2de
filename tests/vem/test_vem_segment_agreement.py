"""Scores of segments, where they are known by hand, and beside scikit-image's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.metrics import adapted_rand_error, variation_of_information

from emflow.vem.agreement import Agreement, MaskOverlap, agreement, joint_of

TRUE = np.array([[1, 1, 1, 1], [2, 2, 2, 2]])
FOUND = np.array([[1, 1, 1, 3], [3, 3, 3, 3]])
LABELS = arrays(np.int32, (6, 7), elements=st.integers(0, 4))


def _scores(found: np.ndarray, true: np.ndarray, alpha: float = 0.5) -> Agreement:
    return agreement(joint_of([(found, true)]), alpha)


def _h(*fractions: float) -> float:
    return -sum(f * math.log2(f) for f in fractions)


def test_scores_counted_by_hand():
    # pairs: (1, 1) 3, (3, 1) 1, (3, 2) 4 of 8 pixels; found 3, 5; true 4, 4
    got = _scores(FOUND, TRUE)
    assert got.rand_split == pytest.approx((9 + 1 + 16) / (16 + 16))
    assert got.rand_merge == pytest.approx((9 + 1 + 16) / (9 + 25))
    assert got.rand == pytest.approx(26 / (0.5 * 34 + 0.5 * 32))
    assert got.rand_error == pytest.approx(1 - got.rand)
    both, found, true = _h(3 / 8, 1 / 8, 4 / 8), _h(3 / 8, 5 / 8), _h(0.5, 0.5)
    shared = found + true - both
    assert got.info_split == pytest.approx(shared / found)
    assert got.info_merge == pytest.approx(shared / true)
    assert got.info == pytest.approx(2 * shared / (found + true))
    assert got.vi_split_bits == pytest.approx(both - true)
    assert got.vi_merge_bits == pytest.approx(both - found)


def test_alpha_goes_from_the_split_to_the_merge_score():
    whole = _scores(FOUND, TRUE)
    split, merge = _scores(FOUND, TRUE, 0.0), _scores(FOUND, TRUE, 1.0)
    assert (split.rand, split.info) == pytest.approx((whole.rand_split, whole.info_split))
    assert (merge.rand, merge.info) == pytest.approx((whole.rand_merge, whole.info_merge))
    with pytest.raises(ValueError, match="alpha"):
        _scores(FOUND, TRUE, 1.5)


def test_a_split_lowers_the_split_scores_alone_and_a_merger_the_merge_scores():
    split = _scores(np.array([[1, 1, 4, 4], [2, 2, 2, 2]]), TRUE)
    assert split.rand_merge == split.info_merge == pytest.approx(1.0)
    assert split.rand_split == pytest.approx((4 + 4 + 16) / 32)
    assert split.info_split == pytest.approx(1.0 / 1.5)
    assert (split.vi_split_bits, split.vi_merge_bits) == pytest.approx((0.5, 0.0))
    merger = _scores(np.ones_like(TRUE), TRUE)
    assert merger.rand_split == merger.info_split == pytest.approx(1.0)
    assert merger.rand_merge == pytest.approx(0.5)
    assert merger.info_merge == merger.info == 0.0
    assert (merger.vi_split_bits, merger.vi_merge_bits) == pytest.approx((0.0, 1.0))


def test_each_pixel_its_own_segment_is_the_same_named_or_as_pixels_in_none():
    named = _scores(np.arange(1, 9).reshape(2, 4), TRUE)
    none = _scores(np.zeros_like(TRUE), TRUE)
    assert named.rand_merge == pytest.approx(1.0)
    assert named.rand_split == pytest.approx(8 / 32)
    assert named.info_merge == pytest.approx(1.0)
    assert named.info_split == pytest.approx(1 / 3)
    for name in Agreement.__annotations__:
        assert getattr(none, name) == pytest.approx(getattr(named, name)), name
    some = np.array([[1, 1, 0, 0], [2, 2, 2, 2]])
    for name in Agreement.__annotations__:
        expected = getattr(_scores(np.array([[1, 1, 5, 6], [2, 2, 2, 2]]), TRUE), name)
        assert getattr(_scores(some, TRUE), name) == pytest.approx(expected), name


def test_what_is_0_in_the_truth_is_left_out():
    true = np.array([[1, 1, 1, 1, 0, 0], [2, 2, 2, 2, 0, 0]])
    found = np.concatenate([FOUND, [[7, 1], [3, 9]]], axis=1)
    assert _scores(found, true) == _scores(FOUND, TRUE)
    with pytest.raises(ValueError, match="no foreground"):
        _scores(FOUND, np.zeros_like(TRUE))


def test_one_segment_in_both_is_perfect():
    assert _scores(np.full((3, 3), 5), np.full((3, 3), 9)) == Agreement(1, 1, 1, 1, 1, 1, 0, 0, 0)


@settings(deadline=None, max_examples=50)
@given(found=LABELS, true=LABELS, seed=st.integers(0, 99))
def test_names_and_parts_do_not_matter(found, true, seed):
    if not true.any():
        true[0, 0] = 1
    expected = _scores(found, true)
    rng = np.random.default_rng(seed)
    # 0 keeps its meaning; other labels get new names, as large as labels may be
    names = [np.concatenate([[0], rng.permutation(np.arange(1, 5)) + 2**40]).astype(np.uint64) for _ in "ft"]
    renamed = _scores(names[0][found], names[1][true])
    parts = agreement(joint_of((found[z : z + 1], true[z : z + 1]) for z in range(6)))
    for name in Agreement.__annotations__:
        value = getattr(expected, name)
        assert getattr(renamed, name) == pytest.approx(value)
        assert getattr(parts, name) == pytest.approx(value)
        assert value >= 0
        assert name.startswith("vi_") or value <= 1
    same = _scores(true, true)
    assert (same.rand, same.info) == pytest.approx((1.0, 1.0))


@settings(deadline=None, max_examples=30)
@given(found=LABELS.map(lambda labels: labels + 1), true=LABELS)
def test_it_agrees_with_scikit_image(found, true):
    inside = true != 0
    if len(np.unique(true[inside])) < 2 or len(np.unique(found[inside])) < 2:
        true[0, :2], found[0, :2] = (1, 2), (1, 2)
        inside = true != 0
    got = _scores(found, true)
    # scikit-image leaves the pairs of a pixel with itself out
    joint = joint_of([(found, true)])
    n = joint.pixels.sum()
    both = joint.pixels @ joint.pixels - n
    sizes = [np.bincount(labels[inside]).astype(float) for labels in (found, true)]
    in_found, in_true = (s @ s - n for s in sizes)
    if in_found and in_true:
        error, precision, recall = adapted_rand_error(true, found)
        assert error == pytest.approx(1 - both / (0.5 * in_found + 0.5 * in_true))
        # as a pair: its version 0.26 names each as its documentation says of the other
        assert sorted((precision, recall)) == pytest.approx(sorted((both / in_found, both / in_true)))
    merge, split = variation_of_information(found[inside], true[inside])
    assert (got.vi_merge_bits, got.vi_split_bits) == pytest.approx((merge, split), abs=1e-9)


def test_adapted_rand_error_of_a_large_image_is_scikit_image_s():
    rng = np.random.default_rng(0)
    true = np.kron(rng.integers(1, 40, (8, 8)), np.ones((32, 32), int))
    found = np.kron(rng.integers(1, 40, (16, 16)), np.ones((16, 16), int))
    error, precision, recall = adapted_rand_error(true, found)
    got = _scores(found, true)
    assert got.rand_error == pytest.approx(error, abs=1e-3)
    assert sorted((got.rand_merge, got.rand_split)) == pytest.approx(sorted((precision, recall)), abs=1e-3)


def test_masks_counted_by_hand():
    overlap = MaskOverlap()
    overlap.add(np.array([1, 1, 1, 0, 0], bool), np.array([1, 1, 0, 1, 0], bool))
    overlap.add(np.zeros(5, bool), np.array([1, 0, 0, 0, 0], bool))
    assert overlap.iou == 2 / 5
    assert overlap.dice == 4 / 7
    assert overlap.pixel_error == 3 / 10
    assert (MaskOverlap().iou, MaskOverlap().dice, MaskOverlap().pixel_error) == (1, 1, 0)


def test_what_are_no_labels_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        joint_of([(np.ones((2, 3), int), np.ones((3, 2), int))])
    with pytest.raises(ValueError, match="whole numbers"):
        joint_of([(np.ones(3), np.ones(3, int))])
    with pytest.raises(ValueError, match="whole numbers"):
        joint_of([(np.array([-1, 1]), np.array([1, 1]))])

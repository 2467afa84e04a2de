"""Filling a volume from mirrored planes, and from two families of unlike certainty."""

from __future__ import annotations

import pytest
import torch

from emflow.vem.blocks import blocks_of
from emflow.vem.gaps import between
from emflow.vem.model import Filler
from emflow.vem.restore import fill_block, restore_block


def _filler(orientations: int) -> Filler:
    torch.manual_seed(3)
    made = Filler.begin(4, mean=100.0, deviation=20.0, spread=0.4)
    made.orientations = orientations
    torch.nn.init.normal_(made.network.last.weight, std=0.1)
    return made


@pytest.mark.parametrize(("orientations", "axes"), [(4, [0]), (4, [1]), (4, [0, 2]), (2, [0, 1, 2])])
def test_a_mirrored_volume_is_filled_with_the_mirror_image(orientations, axes):
    filler = _filler(orientations)
    slices = torch.randn((9, 16, 24), generator=torch.Generator().manual_seed(1))
    there = fill_block(filler, slices)
    back = fill_block(filler, slices.flip(axes))
    # the filled rows of a gap are mirrored with the gaps
    moved = [{0: [0, 1], 1: [2], 2: [3]}[axis] for axis in axes]
    for found, mirrored in zip(there, back, strict=True):
        torch.testing.assert_close(found, mirrored.flip([n for part in moved for n in part]))
    one = fill_block(_filler(1), slices)[0]
    assert (one - there[0]).abs().max() > 0.01, "the network alone is not symmetric"


@pytest.mark.parametrize("orientations", [1, 2, 4])
def test_blocks_give_the_values_of_the_whole(orientations):
    filler = _filler(orientations)
    shape = (21, 41, 30)
    volume = 100 + 20 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    _, (whole,) = blocks_of(shape, (10_000,) * 3, filler.network, filler.grid)
    expected = restore_block(filler, volume, whole)
    _, blocks = blocks_of(shape, (6, 24, 16), filler.network, filler.grid)
    for block in blocks:
        found = restore_block(filler, volume[tuple(slice(*span) for span in block.seen)], block)
        torch.testing.assert_close(found.values, expected.values[block.region], rtol=0, atol=1e-3)
        torch.testing.assert_close(found.error, expected.error[block.region], rtol=0, atol=1e-3)


def test_the_more_certain_family_counts_more():
    """A filler that is certain where rows are bright: xz planes of a bright row there, yz planes in part."""
    filler = _filler(1)
    slices = torch.zeros(3, 16, 16)
    slices[:, 5] = 2.0

    def predict(rows):
        linear = between(rows, 4)
        certain = rows.mean((1, 2)) > 1.0
        scale = torch.where(certain, 0.1, 1.0).view(-1, 1, 1, 1).expand_as(linear)
        return linear + torch.where(certain, 1.0, 0.0).view(-1, 1, 1, 1), scale.clone()

    filler.predict = predict
    values, scale = fill_block(filler, slices)
    # xz planes of row 5 say 1 beyond the line to 0.1, yz planes 0 to 1: weights of 100 and 1, less 0.4 of the smaller
    torch.testing.assert_close(values[:, :, 5], torch.full((2, 3, 16), 2.0 + 100 / 100.6))
    torch.testing.assert_close(scale[:, :, 5], torch.full((2, 3, 16), (2 / 101) ** 0.5))
    assert torch.all(values[:, :, 6] == 0)
    assert torch.all(scale[:, :, 6] == 1)


def test_what_both_families_say_with_little_certainty_counts_for_more():
    filler = _filler(1)

    def predict(rows):
        linear = between(rows, 4)
        return linear + 0.1, torch.full_like(linear, filler.spread / 2**0.5)

    filler.predict = predict
    values, _ = fill_block(filler, torch.zeros(3, 16, 16))
    torch.testing.assert_close(values, torch.full((2, 3, 16, 16), 0.1 * 2 / 1.6))

"""The folded grid, blocks and restoration where the answer is known."""

from __future__ import annotations

import pytest
import torch

from emflow.vem.blocks import blocks_of
from emflow.vem.gaps import between, divide, fold, neighbours, unfold
from emflow.vem.model import Filler
from emflow.vem.restore import fill_block, restore_block


@pytest.fixture
def filler() -> Filler:
    """A filler whose network does something: its last layer is not zero."""
    torch.manual_seed(3)
    made = Filler.begin(4, mean=100.0, deviation=20.0, spread=0.4)
    torch.nn.init.normal_(made.network.last.weight, std=0.1)
    made.quantile = 2.0
    return made


def test_folding_is_undone_by_unfolding_and_keeps_neighbours_together():
    gaps = torch.arange(2 * 3 * 5 * 8.0).reshape(2, 3, 5, 8)
    folded = fold(gaps)
    assert folded.shape == (2, 10, 3, 4)
    assert torch.equal(unfold(folded), gaps)
    assert folded[1, :, 2, 3].tolist() == gaps[1, 2, :, 6:8].flatten().tolist()


def test_thinned_planes_of_a_ramp_are_interpolated_exactly():
    ramp = torch.arange(13.0)[None, :, None].expand(2, 13, 6) + torch.arange(6.0)
    rows, missing = divide(ramp, 4)
    assert rows[0, :, 0].tolist() == [0, 4, 8, 12]
    torch.testing.assert_close(between(rows, 4), missing)


def test_the_network_is_told_of_the_rows_above_and_below():
    rows = torch.arange(3.0)[None, :, None].expand(1, 3, 4)
    told = neighbours(rows)
    assert told[0, :, 0, 0].tolist() == [0, 0, 1, 1]
    assert told[0, :, 1, 0].tolist() == [1, 1, 2, 2]


def test_an_untrained_filler_interpolates_and_states_its_spread():
    plain = Filler.begin(4, 0.0, 1.0, 0.4)
    slices = torch.randn(4, 9, 11)
    mean, scale = fill_block(plain, slices)
    torch.testing.assert_close(mean, between(slices.permute(1, 0, 2), 4).permute(1, 2, 0, 3))
    assert torch.all(scale > 0)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((23, 41, 30), (6, 24, 16)),
        ((24, 32, 32), (6, 24, 16)),  # a last block of full size
        ((9, 24, 24), (1, 8, 8)),  # the last slice alone
        ((8, 16, 200), (100, 100, 100)),
        ((2, 9, 17), (2, 8, 8)),
    ],
)
def test_blocks_cover_the_volume_once_and_give_the_values_of_the_whole(filler, shape, size):
    volume = 100 + 20 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    _, (whole,) = blocks_of(shape, (10_000,) * 3, filler.network, filler.grid)
    expected = restore_block(filler, volume, whole)
    depth = (shape[0] - 1) * 4 + 1
    assert expected.values.shape == (depth, *shape[1:])
    got, error, times = (torch.zeros(depth, *shape[1:]) for _ in range(3))
    _, blocks = blocks_of(shape, size, filler.network, filler.grid)
    for block in blocks:
        found = restore_block(filler, volume[tuple(slice(*span) for span in block.seen)], block)
        at = block.region
        got[at], error[at] = found.values, found.error
        times[at] += 1
    assert torch.all(times == 1)
    torch.testing.assert_close(got, expected.values, rtol=0, atol=1e-3)  # of a deviation of 20
    torch.testing.assert_close(error, expected.error, rtol=0, atol=1e-3)


def test_measured_slices_are_kept_verbatim_and_without_error(filler):
    volume = 100 + 20 * torch.randn(5, 16, 16)
    _, (block,) = blocks_of((5, 16, 16), (10_000,) * 3, filler.network, filler.grid)
    found = restore_block(filler, volume, block)
    assert torch.equal(found.values[::4], volume)
    assert not found.error[::4].any()
    assert torch.all(found.error[1::4] > 0)

"""The U-Net's reach and the tiling: a tiled image is the whole image."""

import logging

import pytest
import torch

from emflow.nn.tiles import crop, mirror, run_tiled, tile_starts, tile_weight
from emflow.nn.unet import UNet
from emflow.step import OutOfMemory


def random_network(widths: tuple[int, ...] = (6, 8, 10)) -> UNet:
    """A network with random weights, of the last layer too (which starts from 0)."""
    torch.manual_seed(3)
    network = UNet(widths)
    torch.nn.init.normal_(network.last.weight)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("widths", [(6, 8), (6, 8, 10), (4, 5, 6, 7)])
def test_an_output_depends_on_no_input_beyond_the_margin(widths: tuple[int, ...]) -> None:
    network = random_network(widths)
    size = 2 * network.margin + 8 * network.stride
    x = torch.randn(1, 1, size, size, requires_grad=True)
    for at in (size // 2, size // 2 + network.stride - 1):
        (gradient,) = torch.autograd.grad(network(x)[0, 0, at, at], x)
        rows = gradient[0, 0].abs().amax(dim=1).nonzero().flatten()
        reach = max(at - int(rows.min()), int(rows.max()) - at)
        assert 0.5 * network.margin < reach <= network.margin


def test_a_shift_by_the_stride_shifts_the_output() -> None:
    network = random_network()
    size, shift = 4 * network.margin, network.stride
    image = torch.randn(1, 1, size + shift, size + shift)
    a, b = network(image[..., shift:, shift:]), network(image[..., :-shift, :-shift])
    m = network.margin
    inside_a = a[..., m : size - m - shift, m : size - m - shift]
    torch.testing.assert_close(inside_a, b[..., m + shift : size - m, m + shift : size - m])


@pytest.mark.parametrize("shape", [(301, 173), (97, 260), (40, 33), (128, 128)])
def test_tiled_equals_whole(shape: tuple[int, int]) -> None:
    network = random_network()
    image = torch.randn(shape)
    whole = run_tiled(network, image, tile=2048)
    tiled = run_tiled(network, image, tile=128, ramp=16)
    assert tiled.shape == whole.shape == shape
    assert float((tiled - whole).abs().max()) < 1e-5 * float(whole.abs().max())


def test_several_images_are_tiled_together() -> None:
    torch.manual_seed(3)
    network = UNet((6, 8, 10), channels=(3, 2))
    torch.nn.init.normal_(network.last.weight)
    images = torch.randn(3, 170, 131)
    whole = run_tiled(network.eval().requires_grad_(False), images, tile=2048)
    tiled = run_tiled(network, images, tile=96, ramp=8)
    assert tiled.shape == whole.shape == (2, 170, 131)
    assert float((tiled - whole).abs().max()) < 1e-5 * float(whole.abs().max())


def test_where_tiles_lie_cannot_be_seen() -> None:
    """With another tile size, or the image cut elsewhere, what is far from the cut stays the same."""
    network, image = random_network(), torch.randn(400, 400)
    one = run_tiled(network, image, tile=160, ramp=8)
    assert torch.allclose(one, run_tiled(network, image, tile=200, ramp=24), atol=1e-4)
    part = run_tiled(network, image[: 300 - 300 % network.stride], tile=128, ramp=16)
    far = part.shape[0] - 2 * network.margin
    assert torch.allclose(one[:far], part[:far], atol=1e-4)


def test_tiles_cover_and_overlap() -> None:
    for size in (8, 128, 136, 1000, 1024, 4096):
        starts = tile_starts(size, 128, 48, 8)
        assert starts[0] == 0
        assert starts[-1] + 128 >= size
        assert all(start % 8 == 0 for start in starts)
        assert all(0 < b - a <= 80 for a, b in zip(starts, starts[1:], strict=False))


def test_weights_are_zero_in_the_margin_and_whole_at_the_image_s_own_edge() -> None:
    inner = tile_weight(64, 10, 8, at_start=False, at_end=False)
    assert float(inner[:10].max()) == 0 == float(inner[-10:].max())
    assert bool((inner[18:-18] == 1).all())
    assert bool((inner.diff()[:31] >= 0).all())
    assert bool((tile_weight(64, 10, 8, at_start=True, at_end=True) == 1).all())


def test_mirror_repeats_the_edge_once_however_far() -> None:
    image = torch.arange(6.0).reshape(2, 3)
    rows = mirror(image, (2, 3), (0, 0))[:, 0]
    assert rows.tolist() == [3, 0, 0, 3, 3, 0, 0]
    assert mirror(image, (0, 0), (4, 0))[0].tolist() == [2, 2, 1, 0, 0, 1, 2]


def test_crops_turn_all_images_alike() -> None:
    y, x = torch.meshgrid(torch.arange(50), torch.arange(70), indexing="ij")
    images = torch.stack([y * 100 + x, -(y * 100 + x)]).float()
    seen = set()
    for seed in range(40):
        part = crop(images, 16, torch.Generator().manual_seed(seed))
        assert part.shape == (2, 16, 16)
        assert bool((part[0] == -part[1]).all())
        seen.add((float(part[0, 0, 1] - part[0, 0, 0]), float(part[0, 1, 0] - part[0, 0, 0])))
    assert seen == {(a, b) for a in (1, -1) for b in (100, -100)} | {
        (b, a) for a in (1, -1) for b in (100, -100)
    }
    assert crop(images, 96, torch.Generator()).shape == (2, 96, 96)


class Small(UNet):
    """A network for which no more than so many pixels a side fit in memory."""

    most = 200

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if max(x.shape[-2:]) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
        return super().forward(x)


@pytest.mark.usefixtures("scarce_memory")  # for its clean start
def test_tiles_that_do_not_fit_are_halved_once_for_all_images(caplog: pytest.LogCaptureFixture) -> None:
    network = random_network()
    image = torch.randn(301, 473)
    whole = run_tiled(network, image, tile=2048)
    small = Small((6, 8, 10)).eval().requires_grad_(False)
    small.load_state_dict(network.state_dict())
    with caplog.at_level(logging.WARNING, "emflow"):
        for _ in range(2):
            tiled = run_tiled(small, image, tile=2048)
            assert float((tiled - whole).abs().max()) < 1e-5 * float(whole.abs().max())
    assert 1 <= len(caplog.messages) <= 3
    small.most = 10
    with pytest.raises(OutOfMemory, match="473 x 301 px"):
        run_tiled(small, image, tile=2048)

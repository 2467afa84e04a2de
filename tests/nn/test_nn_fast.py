"""Half precision and compiling change the arithmetic, not the image."""

import torch

from emflow.nn.fast import faster
from emflow.nn.tiles import run_tiled
from emflow.nn.unet import UNet


def some_network() -> UNet:
    torch.manual_seed(3)
    network = UNet((6, 8))
    torch.nn.init.normal_(network.last.weight)
    return network.eval().requires_grad_(False)


def test_half_precision_is_near_and_comes_back_whole() -> None:
    network, image = some_network(), torch.randn(90, 70, generator=torch.Generator().manual_seed(0))
    exact = run_tiled(network, image)
    half = run_tiled(faster(network, half=True), image)
    assert half.dtype == torch.float32
    away = float((half - exact).std() / exact.std())
    assert 1e-5 < away < 0.03
    assert faster(network) is network


def test_half_precision_in_tiles_is_that_of_the_whole() -> None:
    network, image = faster(some_network(), half=True), torch.randn(200, 90)
    whole, tiled = run_tiled(network, image), run_tiled(network, image, tile=96, ramp=16)
    assert float((whole - tiled).abs().max()) < 0.03 * float(whole.std())


def test_compiled_is_the_same(monkeypatch) -> None:
    """With the compiler's front end alone, which needs no compiler of C++ or CUDA."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: real(module, backend="eager"))
    network, image = some_network(), torch.randn(60, 50)
    torch.testing.assert_close(run_tiled(faster(network, compiled=True), image), run_tiled(network, image))

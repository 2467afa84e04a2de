"""Cutting out: against a plain numpy version of RELION's rule, and on images whose answer is known."""

import numpy as np
import pytest
import torch

from emflow.extract.boxes import Box
from emflow.extract.cut import cut_particles, normalise, outside_fraction, windows


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(micrograph: np.ndarray, y: int, x: int, box: Box, invert: bool) -> np.ndarray:
    """One particle by the rule: window, repeated edges, Fourier crop, plane, mean 0, deviation 1, inverted last."""
    n, m = box.cut_px, box.size_px
    window = np.array(
        [
            [
                micrograph[
                    min(max(y - n // 2 + i, 0), micrograph.shape[0] - 1),
                    min(max(x - n // 2 + j, 0), micrograph.shape[1] - 1),
                ]
                for j in range(n)
            ]
            for i in range(n)
        ],
        dtype=np.float64,
    )
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(window)))
    low = n // 2 - m // 2
    spectrum = spectrum[low : low + m, low : low + m].copy()
    if m < n:
        spectrum[0], spectrum[:, 0] = 0, 0  # Nyquist
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(spectrum))).real * (m / n) ** 2
    yy, xx = np.mgrid[:m, :m] - m // 2
    background = yy**2 + xx**2 > box.background_radius_px**2
    design = np.stack([np.ones((m, m)), yy, xx], -1)
    plane, *_ = np.linalg.lstsq(design[background], image[background], rcond=None)
    image = image - design @ plane
    image = (image - image[background].mean()) / image[background].std()
    return -image if invert else image


@pytest.mark.parametrize("invert", [True, False])
@pytest.mark.parametrize("box", [Box(32, 32, 3.0, 11.0), Box(48, 20, 7.2, 8.0)])
def test_is_relions_rule(box: Box, invert: bool) -> None:
    micrograph = noise(90, 110) * 20 + 1000 + torch.linspace(0, 60, 110)
    centres = torch.tensor([[45, 50], [10, 100], [60, 61]])  # the second reaches over two edges
    cut = cut_particles(micrograph, centres, box, invert, max_outside=1.0)
    assert bool(cut.kept.all())
    for image, (y, x) in zip(cut.images, centres.tolist(), strict=True):
        expected = reference(micrograph.numpy(), y, x, box, invert)
        np.testing.assert_allclose(image.numpy(), expected, atol=2e-4)


def test_delta_lands_on_the_centre() -> None:
    """The window is [c − N/2, c + N/2): a bright pixel at c is at n//2, before and after binning."""
    micrograph = noise(100, 80) * 0.01
    micrograph[37, 52] = 50
    for size in (32, 16):
        cut = cut_particles(
            micrograph, torch.tensor([[37, 52]]), Box(32, size, 1.0, 0.375 * size), False, 0.15
        )
        assert divmod(int(cut.images[0].argmax()), size) == (size // 2, size // 2)


def test_windows_repeat_the_edge() -> None:
    micrograph = torch.arange(20.0).reshape(4, 5)
    (window,) = windows(micrograph, torch.tensor([[0, 4]]), 4)
    assert window.tolist() == [[2, 3, 4, 4], [2, 3, 4, 4], [2, 3, 4, 4], [7, 8, 9, 9]]


def test_background_has_mean_0_and_deviation_1_whatever_the_particle() -> None:
    axis = torch.arange(40) - 20
    radius = torch.sqrt((axis[:, None] ** 2 + axis[None, :] ** 2).float())
    images = noise(5, 40, 40) * torch.tensor([1, 3, 10, 0.1, 5])[:, None, None]
    images = images + 300 + 2.0 * axis[:, None] - 0.5 * axis[None, :] + 50 * (radius < 12)
    out, sound = normalise(images, 14.0)
    background = out[:, radius > 14]
    torch.testing.assert_close(background.mean(1), torch.zeros(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(background.square().mean(1), torch.ones(5), atol=1e-3, rtol=0)
    assert bool(sound.all())
    # the plane is gone: no slope left in the background
    slope = (background * axis[:, None].expand(40, 40)[radius > 14]).mean(1)
    assert float(slope.abs().max()) < 0.05


def test_dark_protein_becomes_bright() -> None:
    micrograph = noise(64, 64) * 0.1
    micrograph[24:40, 24:40] -= 5
    box = Box(48, 48, 1.0, 16.0)
    for invert, sign in ((True, 1), (False, -1)):
        cut = cut_particles(micrograph, torch.tensor([[32, 32]]), box, invert, 0.15)
        assert sign * float(cut.images[0, 20:28, 20:28].mean()) > 3


def test_particles_beyond_the_edge_are_dropped_and_counted() -> None:
    centres = torch.tensor([[50, 50], [2, 50], [50, 99], [-40, 50], [13, 50]])
    fractions = outside_fraction(torch.Size((100, 100)), centres, 32)
    np.testing.assert_allclose(fractions, [0, 14 / 32, 15 / 32, 1, 3 / 32])
    cut = cut_particles(noise(100, 100), centres, Box(32, 32, 1.0, 12.0), True, 0.15)
    assert cut.kept.tolist() == [True, False, False, False, True]
    assert (cut.outside, cut.flat, len(cut.images)) == (3, 0, 2)


def test_dead_area_is_dropped_and_leaves_its_neighbours_alone() -> None:
    micrograph = noise(100, 100) + 10
    micrograph[:, 60:] = 3.0
    centres = torch.tensor([[50, 20], [50, 82], [50, 30]])
    cut = cut_particles(micrograph, centres, Box(32, 16, 2.0, 6.0), True, 0.5)
    assert cut.kept.tolist() == [True, False, True]
    assert (cut.outside, cut.flat) == (0, 1)
    alone = cut_particles(micrograph, centres[2:], Box(32, 16, 2.0, 6.0), True, 0.5)
    torch.testing.assert_close(cut.images[1], alone.images[0])


def test_large_offset_costs_no_digits() -> None:
    micrograph = noise(64, 64)
    box, centre = Box(32, 32, 1.0, 12.0), torch.tensor([[32, 32]])
    plain = cut_particles(micrograph, centre, box, False, 0.15).images
    offset = cut_particles(micrograph * 1e3 + 2**20, centre, box, False, 0.15).images
    torch.testing.assert_close(offset, plain, atol=2e-3, rtol=0)  # float32 of the input itself: 1/16 of 1000


def test_no_particles_give_an_empty_stack() -> None:
    none = torch.zeros(0, 2, dtype=torch.long)
    cut = cut_particles(noise(64, 64), none, Box(32, 16, 2.0, 6.0), True, 0.15)
    assert cut.images.shape == (0, 16, 16)
    assert cut.kept.shape == (0,)

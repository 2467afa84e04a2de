"""How large the boxes are: in the micrograph, and as stored."""

from __future__ import annotations

from dataclasses import dataclass

from emflow.em.fourier import good_size
from emflow.extract.config import Boxes, ExtractRecenter, ExtractRun
from emflow.step import EmflowError


@dataclass(frozen=True)
class Box:
    """Sizes of a particle image.

    Attributes
    ----------
    cut_px
        Side of the window in the micrograph, even.
    size_px
        Side of the stored image, even, at most ``cut_px``.
    pixel_size_angstrom
        Pixel size of the stored image.
    background_radius_px
        Radius, in stored pixels, outside which mean 0 and deviation 1 hold.
    """

    cut_px: int
    size_px: int
    pixel_size_angstrom: float
    background_radius_px: float


def choose_box(cfg: Boxes, pixel_size_angstrom: float) -> Box:
    """Choose the box for micrographs of a pixel size.

    Depends on settings and pixel size alone, so that all shards get the same box.

    Raises
    ------
    EmflowError
        If neither the box nor the diameter is known.
    """
    diameter = cfg.diameter_angstrom
    if not cfg.box_size_px and diameter is None:
        raise EmflowError(
            "The box size is not known: set sample.diameter_angstrom (or give --diameter-angstrom), "
            "or set box_size_px."
        )
    cut = cfg.box_size_px or good_size(cfg.box_diameters * (diameter or 0) / pixel_size_angstrom)
    size = cut
    if isinstance(cfg, ExtractRun) and cfg.binned_size_px:
        size = min(cut, cfg.binned_size_px)
    if isinstance(cfg, ExtractRecenter):
        if cfg.resolution_angstrom is not None:
            size = min(size, good_size(2 * cut * pixel_size_angstrom / cfg.resolution_angstrom))
        size = min(size, cfg.max_size_px)
    pixel = pixel_size_angstrom * cut / size
    if diameter is None:
        radius = 0.375 * size
    else:
        radius = 0.5 * cfg.background_diameters * diameter / pixel
    return Box(cut, size, pixel, min(radius, size / 2 - 1))

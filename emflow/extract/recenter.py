"""New box centres from refined origins."""

from __future__ import annotations

import numpy as np


def recenter(
    coordinates: np.ndarray, origins_angstrom: np.ndarray, pixel_size_angstrom: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Move boxes onto their particles.

    A particle sits at −origin from its box's centre. The new centre is the nearest pixel; what is left is
    the new origin.

    Parameters
    ----------
    coordinates
        Shape (m, 2), centres of the boxes in micrograph pixels, fractions dropped as in extraction.
    origins_angstrom
        Shape (m, 2), rlnOriginX/YAngst (same order of axes).
    pixel_size_angstrom
        Pixel size of the micrographs, one or of shape (m, 1).

    Returns
    -------
    centres (integer, as float64) and origins in ångström, each of shape (m, 2).
    """
    place = np.trunc(coordinates) - origins_angstrom / pixel_size_angstrom
    centres = np.rint(place)
    return centres, (centres - place) * pixel_size_angstrom

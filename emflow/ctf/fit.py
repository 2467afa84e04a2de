"""Fit the CTF of one micrograph."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from emflow.ctf.config import CtfFit
from emflow.ctf.quality import Profile, equiphase_profile, figure_of_merit, ring_extent
from emflow.ctf.search import Rings, refine, search
from emflow.ctf.spectrum import averaged_power, flatten
from emflow.em.fourier import good_size
from emflow.step import EmflowError, OpticsFacts

PATCH_ANGSTROM = 800.0
KNOT = 0.05  # 1/Å between knots of the background: wider than a ring of 0.5 µm beyond 15 Å
NYQUIST_PART = 0.95
LEAST_PATCH = 64


@dataclass(frozen=True)
class CtfResult:
    """The CTF of a micrograph and how far to trust it.

    Attributes
    ----------
    defocus_u_um, defocus_v_um
        Larger and smaller defocus, micrometre, underfocus positive.
    defocus_angle_deg
        From the x axis to the direction of ``defocus_u_um``, 0 ≤ angle < 180.
    max_resolution_angstrom
        Resolution up to which Thon rings are fitted; ``low_resolution_angstrom`` where the fit is not reliable.
    figure_of_merit
        Correlation of the equi-phase profile with CTF² over the whole band.
    confidence
        1 − second-best/best score over defocus: 0.1 to 0.3 at most on noise.
    reliable
        Whether the fit may be believed: clear enough, and at least one ring fitted.
    profile
        The equi-phase average behind these figures.
    """

    defocus_u_um: float
    defocus_v_um: float
    defocus_angle_deg: float
    max_resolution_angstrom: float
    figure_of_merit: float
    confidence: float
    reliable: bool
    profile: Profile


def fit_ctf(micrograph: Tensor, facts: OpticsFacts, cfg: CtfFit) -> CtfResult:
    """Estimate defocus and astigmatism from the Thon rings of a micrograph.

    Power spectrum (overlapping patches) → division by its smooth background → exhaustive search of mean
    defocus, astigmatism and angle → continuous refinement on the 2-D spectrum → equi-phase profile for
    the quality. The search scores −Σ (P/B − 1)·cos 2γ, the correlation with CTF² = ½ − ½ cos 2γ.

    Parameters
    ----------
    micrograph
        Shape (ny, nx), any scale and offset.
    facts
        Its pixel size and optics.
    cfg
        Settings; its own optics facts are not looked at.

    Raises
    ------
    EmflowError
        If the micrograph is too small or constant, or the band holds no ring.
    """
    pixel = facts.pixel_size_angstrom
    if pixel is None:
        raise EmflowError("The pixel size is not known: set sample.pixel_size_angstrom.")
    band = _band(pixel, cfg)
    patch = _patch_size(micrograph, pixel, cfg)
    spread = micrograph.std()
    if not bool(spread > 0):
        raise EmflowError("The micrograph is constant or holds NaN; expected an image with noise.")
    spectrum = flatten(averaged_power((micrograph - micrograph.mean()) / spread, patch), pixel, band, KNOT)
    rings = Rings(facts, cfg.phase_shift_deg)
    defocus = (cfg.defocus_min_um * 1e4, cfg.defocus_max_um * 1e4)
    astigmatism = cfg.astigmatism_max_um * 1e4
    found = search(spectrum, rings, defocus, astigmatism)
    parameters = refine(spectrum, rings, found.parameters, defocus, astigmatism)
    profile = equiphase_profile(spectrum, rings, parameters)
    extent = ring_extent(profile, cfg.ring_correlation)
    mean, a, b = parameters.tolist()
    half = math.hypot(a, b)
    rings_seen = rings.wavelength * mean * (extent**-2 - band[0] ** 2)
    reliable = found.confidence >= cfg.reliable_confidence and rings_seen >= 1
    return CtfResult(
        defocus_u_um=(mean + half) * 1e-4,
        defocus_v_um=(mean - half) * 1e-4,
        defocus_angle_deg=math.degrees(0.5 * math.atan2(b, a)) % 180,
        max_resolution_angstrom=extent if reliable else 1 / band[0],
        figure_of_merit=figure_of_merit(profile),
        confidence=found.confidence,
        reliable=reliable,
        profile=profile,
    )


def _patch_size(micrograph: Tensor, pixel: float, cfg: CtfFit) -> int:
    least = min(micrograph.shape)
    patch = min(cfg.patch_size or good_size(PATCH_ANGSTROM / pixel), least - least % 2)
    if patch < LEAST_PATCH:
        raise EmflowError(
            f"The patch for the spectrum is {patch} px (micrograph {tuple(micrograph.shape)}); "
            f"expected at least {LEAST_PATCH} px."
        )
    return patch


def _band(pixel: float, cfg: CtfFit) -> tuple[float, float]:
    low = 1 / cfg.low_resolution_angstrom
    high = min(1 / cfg.high_resolution_angstrom, NYQUIST_PART / (2 * pixel))
    if high < 1.5 * low:
        raise EmflowError(
            f"Pixels of {pixel:g} Å leave only {1 / low:.3g} to {1 / high:.3g} Å for the CTF fit: no ring is seen there. "
            "Check the pixel size, or use less binned micrographs."
        )
    return low, high

"""Verdict on preferred orientation, from the angles and from the map."""

from __future__ import annotations

import math
from typing import Any

from emflow.step import Judgement
from emflow.validate.angles import Coverage
from emflow.validate.directional import Cones

UNEVEN = 0.5
"""Conical FSC area ratio below which a map is called anisotropic (cryoSPARC's guide names the same)."""
MISSING = 0.25
"""Ratio below which directions are as good as missing."""
SURE, SURE_OF_FEW = 3.5, 5.0
"""Standard deviations of chance by which the least area must lie below; the second where fewer than 16 shells count,
since there the shape of a flat or long particle tells. The least of 200 cones lies two below by chance alone."""
FACTOR = 0.7
"""Sampling compensation factor: side views alone have 0.81, and 0.75 or more with a hundred particles."""
EMPTY = 0.02
FEW = 100
"""Particles: with fewer the factor scatters."""
_QUESTION = "Are enough directions seen?"


def judge_directions(coverage: Coverage | None, cones: Cones | None) -> Judgement:
    """Say whether the views fill Fourier space: by the assigned angles, and by the map, which needs no angles.

    Parameters
    ----------
    coverage
        Of the assigned angles; None where there are none.
    cones
        Of the half maps; None where they agree over too few shells.
    """
    known = coverage is not None and coverage.particles >= FEW
    evidence = [_of_map(cones), _of_angles(coverage)]
    if cones is None and not known:
        return Judgement(
            _QUESTION, "unknown", " ".join(evidence), "Give --particles with angles, and more particles."
        )
    uneven = cones is not None and is_uneven(cones)
    missing = cones is not None and uneven and cones.deficit(MISSING) > 2
    gaps = coverage is not None and known and (coverage.factor < FACTOR or coverage.empty_fraction > EMPTY)
    action = ""
    if uneven and gaps:
        action = "The map is smeared along missing directions: collect tilted data, or other supports."
    elif uneven and known:
        evidence.append("The angles look even and the map does not: angles may be wrong, or a part moves.")
        action = "Refine the orientations again, classify; quote the resolution of the worst direction."
    elif uneven:
        action = "Give --particles with angles; collect tilted data, or other supports."
    elif gaps:
        evidence.append("The map" + (" shows nothing of it yet." if cones is not None else " cannot tell."))
        action = "Check that the table belongs to the map; collect tilted data, or other supports."
    answer = "fail" if missing else "warn" if uneven or gaps else "pass"
    return Judgement(_QUESTION, answer, " ".join(evidence), action)


def is_uneven(cones: Cones) -> bool:
    """Whether the cones differ by more than chance and the particle's shape explain."""
    sure = SURE if cones.band_shell - cones.first_shell >= 16 else SURE_OF_FEW
    return cones.deficit(UNEVEN) > sure


def _of_angles(coverage: Coverage | None) -> str:
    if coverage is None:
        return "There are no angles to count."
    few = "" if coverage.particles >= FEW else f" (only {coverage.particles} particles: no more than a hint)"
    return (
        f"Sampling compensation factor of the angles {coverage.factor:.2f}{few} (uniform: 1; side views alone: 0.81); "
        f"{100 * coverage.empty_fraction:.1f} % of the Fourier directions are nearly empty."
    )


def _of_map(cones: Cones | None) -> str:
    if cones is None:
        return "The half maps agree over too few shells to compare directions."
    resolutions = cones.resolutions()
    chance = cones.area_ratio < UNEVEN and not is_uneven(cones)
    return (
        f"In cones of 20° the half maps agree to {float(resolutions.min()):.1f} – {float(resolutions.max()):.1f} Å; "
        f"area ratio {cones.area_ratio:.2f} (isotropic: 1; below {UNEVEN:g} is uneven"
        f"{', but with so few pixels it may be chance' if chance else ''}), "
        f"sphericity {cones.sphericity:.2f}."
    )


def direction_metrics(coverage: Coverage | None, cones: Cones | None) -> dict[str, float | int | None]:
    """Figures of the angles and of the cones; directions as RELION's rot and tilt."""
    metrics: dict[str, float | int | None] = {
        "sampling_factor": coverage.factor if coverage else None,
        "empty_directions_fraction": coverage.empty_fraction if coverage else None,
        "cone_area_ratio": cones.area_ratio if cones else None,
        "cone_sphericity": cones.sphericity if cones else None,
    }
    if cones is None:
        return metrics
    resolutions = cones.resolutions()
    for name, index in (("best", int(cones.areas.argmax())), ("worst", int(cones.areas.argmin()))):
        x, y, z = cones.directions[index].tolist()
        metrics[f"cone_{name}_angstrom"] = float(resolutions[index])
        metrics[f"cone_{name}_rot_deg"] = math.degrees(math.atan2(y, x))
        metrics[f"cone_{name}_tilt_deg"] = math.degrees(math.acos(min(z, 1.0)))
    return metrics


def cone_lists(cones: Cones) -> dict[str, Any]:
    """Least, mean and greatest FSC of all cones by shell, for validation.json."""
    curves = {"min": cones.curves.amin(0), "mean": cones.curves.mean(0), "max": cones.curves.amax(0)}
    return {
        "first_shell": cones.first_shell,
        "band_shell": cones.band_shell,
        **{name: [round(v, 6) for v in values.tolist()] for name, values in curves.items()},
    }

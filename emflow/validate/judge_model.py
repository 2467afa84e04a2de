"""Verdicts on a model in a map, and on the hand of the map."""

from __future__ import annotations

import numpy as np

from emflow.em.atoms import AtomicModel
from emflow.step import Judgement
from emflow.validate.hand import CLAIM, Windings
from emflow.validate.model import ModelCurves, RealSpace
from emflow.validate.place import Placement
from emflow.validate.qscore import expected_q

HAND_LIMIT_ANGSTROM = 7.0
"""Coarser maps are not asked for their hand."""
RESIDUE_LIMIT_ANGSTROM = 6.0
"""In coarser maps single residues are not judged."""
_GOOD, _POOR = 1.5, 2.0  # FSC 0.5 of the model, in units of the half maps' resolution
_LEAST_CORRELATION = 0.5  # CC_mask of a model that explains its map; right ones had 0.69 and more
_DETECTED, _LEAST = 5.0, 0.02  # standard deviations and FSC from which a model is called overfitted
_SHOWN = 8  # residues named in a verdict


def judge_fit(
    placement: Placement, curves: ModelCurves, space: RealSpace, voxel_size_angstrom: float
) -> Judgement:
    """Say whether the model explains the map, and whether it had to be moved."""
    question = "Does the model fit the map?"
    resolved, fitted = curves.angstrom(curves.resolved_shell), curves.angstrom(curves.fit_shell)
    if resolved is None or fitted is None or curves.resolved_shell < 3:
        return Judgement(
            question, "unknown", "Within the model's mask the half maps agree no more than noise.", ""
        )
    evidence = (
        f"Map-model FSC 0.5 at {fitted:.2f} Å (half maps in the same mask: 0.143 at {resolved:.2f} Å), "
        f"CC_mask {space.mask:.2f}, {100 * space.included.mean():.0f} % of the atoms inside the contour. "
        f"{describe_place(placement, voxel_size_angstrom)}"
    )
    if fitted > _POOR * resolved:
        return Judgement(
            question,
            "fail",
            evidence + " No place was found where it explains the map.",
            "Make sure that the model is of this specimen and the voxel size right; place parts of it one by one.",
        )
    if placement.mirrored:
        return Judgement(
            question,
            "fail",
            evidence + " The map has the other hand.",
            "Invert the map and the half maps, and refine the poses from the inverted map.",
        )
    if fitted > _GOOD * resolved or space.mask < _LEAST_CORRELATION:
        return Judgement(
            question,
            "warn",
            evidence + " The map shows detail that the model does not have, or has elsewhere.",
            "Look at the residues with the lowest scores; refine the model.",
        )
    if placement.moved_angstrom > 0:
        return Judgement(
            question,
            "warn",
            evidence + " All scores are those of the moved model.",
            "Apply the rotation and the shift of validation.json to the model before it is deposited.",
        )
    return Judgement(question, "pass", evidence)


def describe_place(placement: Placement, voxel_size_angstrom: float) -> str:
    """Where the model was scored, in a sentence."""
    if placement.moved_angstrom == 0:
        return "The model was scored as it stands."
    x, y, z = placement.shift_angstrom
    way = "searched for in the whole map and put" if placement.searched else "moved to where it fits better"
    hand = ", inverted through the centre (the mirror image)," if placement.mirrored else ""
    return (
        f"The model was {way}{hand} by a rotation of {placement.angle_deg:.1f}° and a shift of "
        f"({x:.1f}, {y:.1f}, {z:.1f}) Å about the box's centre: its atoms moved {placement.moved_angstrom:.1f} Å "
        f"({placement.moved_angstrom / voxel_size_angstrom:.1f} voxels)."
    )


def judge_overfit(curves: ModelCurves) -> Judgement:
    """Say whether the model follows the noise of the maps."""
    question = "Does the model follow the noise?"
    if curves.resolved_shell < 3:
        return Judgement(
            question, "unknown", "Within the model's mask the half maps agree no more than noise."
        )
    preference, excess_found = curves.preference(), curves.excess()
    if preference is None:
        return Judgement(question, "unknown", "The box has too few shells to tell.")
    preferred, preferred_sd = preference
    evidence = (
        f"FSC with half 1 less that with half 2: {preferred:+.3f} ({preferred_sd:+.1f} standard deviations). Beyond the "
        "resolution, product of the FSC with either half less the FSC between them (at most 0 for a model that knows "
        "nothing of the noise): "
    )
    excess, excess_sd = excess_found or (0.0, 0.0)
    evidence += (
        f"{excess:+.3f} ({excess_sd:+.1f} standard deviations)."
        if excess_found
        else "no shells are left there."
    )
    if abs(preferred) > _LEAST and abs(preferred_sd) > _DETECTED:
        half = 1 if preferred > 0 else 2
        evidence += f" The model fits the noise of half map {half}."
    elif excess > _LEAST and excess_sd > _DETECTED:
        evidence += " The model agrees with both halves better than they with each other."
    else:
        return Judgement(question, "pass", evidence)
    return Judgement(
        question, "warn", evidence, "Refine the model with stronger restraints, or to a lower resolution."
    )


def judge_residues(
    model: AtomicModel, space: RealSpace, q: np.ndarray, resolution_angstrom: float
) -> Judgement:
    """Say which residues do not sit in density.

    ``q`` is the mean Q-score of each residue, (R,).
    """
    question = "Does every residue fit?"
    if resolution_angstrom > RESIDUE_LIMIT_ANGSTROM:
        return Judgement(
            question,
            "unknown",
            f"Single residues are not judged beyond {RESIDUE_LIMIT_ANGSTROM:g} Å; the masked half maps agree to "
            f"{resolution_angstrom:.1f} Å.",
        )
    known = np.isfinite(space.residues) & np.isfinite(q)
    if known.sum() < 5:
        return Judgement(question, "unknown", "Fewer than five residues cover enough voxels to be scored.")
    poor = np.flatnonzero(misfits(space.residues, q))
    poor = poor[np.argsort(space.residues[poor], kind="stable")]
    evidence = (
        f"Mean Q-score {np.nanmean(q):.2f} (expected at this resolution: {expected_q(resolution_angstrom):.2f}); median "
        f"correlation of the residues {np.nanmedian(space.residues):.2f}. {len(poor)} of {known.sum()} residues have "
        "no density of their own"
    )
    if not len(poor):
        return Judgement(question, "pass", evidence + ".")
    names = [
        f"{model.residue_chain[i]} {model.residue_name[i]} {model.residue_number[i]}" for i in poor[:_SHOWN]
    ]
    more = f" and {len(poor) - _SHOWN} more (model.star)" if len(poor) > _SHOWN else ""
    return Judgement(
        question,
        "warn",
        f"{evidence}: {', '.join(names)}{more}.",
        "Rebuild these residues, or leave them out of the model.",
    )


def misfits(correlation: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Residues (R,) that stand out: correlation below 0.5 and far under the median, and a low Q-score too.

    Far is five deviations (1.48 times the median absolute one) for the correlation, two for the Q-score.
    """

    def under(values: np.ndarray, deviations: float) -> float:
        median = np.nanmedian(values)
        return float(median - deviations * 1.4826 * np.nanmedian(np.abs(values - median)))

    with np.errstate(invalid="ignore"):
        return (correlation < min(0.5, under(correlation, 5))) & (q < under(q, 2))


def judge_hand(windings: Windings | None, resolution_angstrom: float | None) -> Judgement:
    """Say whether the map's α-helices are right-handed; ``windings`` is None where nobody looked."""
    question = "Is the hand of the map right?"
    if windings is None:
        stands = "none" if resolution_angstrom is None else f"{resolution_angstrom:.1f} Å"
        return Judgement(
            question,
            "unknown",
            f"Helices show their hand at about 5.5 Å or finer, and are not looked at beyond {HAND_LIMIT_ANGSTROM:g} Å; "
            f"the resolution is {stands}.",
            "Go on to a higher resolution, or compare with a known structure (--model).",
        )
    evidence = (
        f"{len(windings.right)} rods wind to the right rather than to the left with a score of {windings.score:+.1f} "
        f"(noise: ±1): probability of the right hand {windings.probability:.3f} (from {CLAIM:g} on it is claimed)."
    )
    if windings.probability >= CLAIM:
        return Judgement(question, "pass", evidence)
    if windings.probability <= 1 - CLAIM:
        return Judgement(
            question,
            "fail",
            evidence + " The helices are left-handed: this is the mirror image.",
            "Invert the map and the half maps, and refine the poses from the inverted map.",
        )
    return Judgement(
        question,
        "unknown",
        evidence + " It cannot be told: too few helices, or none resolved.",
        "Go on to a higher resolution, or compare with a known structure (--model).",
    )


def judge_no_map() -> Judgement:
    """What there is to say of a model where the half maps agree on nothing."""
    return Judgement(
        "Does the model fit the map?",
        "unknown",
        "The half maps agree no more than noise: there is nothing that a model could fit.",
        "Look at the resolution first.",
    )

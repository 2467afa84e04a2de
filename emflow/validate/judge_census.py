"""Verdicts on a particle table."""

from __future__ import annotations

from emflow.step import Judgement
from emflow.validate.census import Census, HalfSets, Weights
from emflow.validate.defoci import Defoci
from emflow.validate.doubles import Doubles
from emflow.validate.poses import Poses

GIVE = "Give --particles."


def judge_halves(split: HalfSets | None) -> Judgement:
    """Say whether the halves are independent by micrograph, and balanced."""
    question = "Are the half-sets independent?"
    if split is None:
        return Judgement(
            question, "unknown", "No particle table with micrographs and half-sets was given.", GIVE
        )
    evidence = f"{split.half1} and {split.half2} particles"
    if split.shared_micrographs:
        return Judgement(
            question,
            "warn",
            f"{evidence}; {split.shared_micrographs} micrographs have particles in both halves, so overlapping "
            "boxes share their noise.",
            "Split by micrograph and refine again.",
        )
    evidence += "; each micrograph belongs to one half."
    if min(split.half1, split.half2) < 0.25 * (split.half1 + split.half2):
        return Judgement(question, "warn", evidence, "Balance the halves.")
    return Judgement(question, "pass", evidence)


def judge_doubles(doubles: Doubles | None, particles: int) -> Judgement:
    """Say whether particles are there more than once, and in both halves."""
    question = "Is any particle there twice?"
    if doubles is None:
        told = "No particle table with micrographs, coordinates and a pixel size was given."
        return Judgement(question, "unknown", told, GIVE)
    evidence = (
        f"About {doubles.copies:.0f} of {particles} rows are copies of another: the same image or place, or closer "
        f"than {doubles.distance_angstrom:.0f} Å to it in the same micrograph (beyond the {doubles.by_chance:.0f} "
        "pairs that the density of particles explains)."
    )
    if doubles.copies <= 0.002 * particles:
        return Judgement(question, "pass", evidence)
    action = (
        "Keep one row of each (flagged.star lists them); a symmetry-expanded table is no input for an FSC."
    )
    if doubles.across_halves > 0.01 * particles:
        evidence += f" {doubles.across_halves} rows have their copy in the other half: the FSC counts noise as signal."
        return Judgement(question, "fail", evidence, f"{action} Then split and refine again.")
    return Judgement(question, "warn", evidence, action)


def judge_poses(poses: Poses | None) -> Judgement:
    """Say whether angles and shifts are those of a search that found its end."""
    question = "Are the poses plausible?"
    if poses is None:
        return Judgement(question, "unknown", "No particle table with three angles was given.", GIVE)
    if poses.equal:
        told = "All particles have the same angles: nobody has aligned them yet."
        return Judgement(question, "unknown", told, "Give the table that the refinement wrote.")
    n, broken, far = len(poses.broken), int(poses.broken.sum()), int(poses.far.sum())
    evidence, wrong, action = [f"{broken} of {n} rows have an angle or shift that is no number"], False, ""
    if broken:
        wrong, action = True, "Find the step that wrote them; leave the rows out (flagged.star lists them)."
    if poses.median_shift_angstrom is not None:
        evidence.append(
            f"the median shift is {poses.median_shift_angstrom:.1f} Å, {far} exceed half the diameter"
        )
    if far > 0.02 * n:
        wrong, action = True, "Extract again, centred on the refined positions; look at the picks."
    if poses.edge_fraction > 0.01:
        wrong, action = True, "Widen the range of the shift search, or extract again, centred."
        evidence.append(f"{100 * poses.edge_fraction:.0f} % of the shifts pile up at the largest value")
    bias = poses.in_plane_bias
    if bias is not None:
        evidence.append(f"in-plane angles have a bias of {bias:.2f} (even: 0)")
        if bias > 0.2 and n * bias**2 > 20:
            wrong = True
            action = (
                "Something other than the particles turns them in the plane (edges, gradients, the reference), or "
                "the point group was not told: give --symmetry."
            )
    return Judgement(question, "warn" if wrong else "pass", "; ".join(evidence) + ".", action)


def judge_defoci(defoci: Defoci | None) -> Judgement:
    """Say whether the CTF values can be those of a micrograph of particles in ice."""
    question = "Are the CTF values plausible?"
    if defoci is None:
        return Judgement(question, "unknown", "No particle table with defocus was given.", GIVE)
    n = len(defoci.broken)
    counts = [int(rows.sum()) for rows in (defoci.broken, defoci.astigmatic, defoci.outliers)]
    evidence = (
        f"Median defocus {defoci.median_angstrom:.0f} Å; of {n} particles {counts[0]} lie outside 500 to 100 000 Å, "
        f"{counts[1]} are strongly astigmatic, {counts[2]} lie off their micrograph's plane."
    )
    if defoci.facts:
        evidence += f" {defoci.facts}."
        return Judgement(question, "fail", evidence, "Correct the optics table, and refine again.")
    if counts[0] > 0.5 * n:
        action = "Defocus is expected in ångström, underfocus positive: correct the table, and refine again."
        return Judgement(question, "fail", evidence, action)
    if sum(counts) > 0.01 * n:
        action = (
            "Fit the CTF of these micrographs again or leave the particles out (flagged.star lists them)."
        )
        return Judgement(question, "warn", evidence, action)
    return Judgement(question, "pass", evidence)


def judge_weights(weights: Weights, particles: int, factor: float | None) -> Judgement:
    """Say how many of the particles carry the map."""
    question = "How many particles carry the map?"
    source = f"weights from {' and '.join(weights.columns)}" if weights.columns else "no weights in the table"
    evidence = f"{weights.effective:.0f} effective particles of {particles} ({source})"
    if factor is not None:
        evidence += (
            f"; spread over the directions they are worth {weights.effective * factor:.0f} seen evenly"
        )
    if weights.effective < 0.5 * particles:
        action = "A part of the particles dominates, or many are copies: classify, and look at flagged.star."
        return Judgement(question, "warn", f"{evidence}.", action)
    return Judgement(question, "pass", f"{evidence}.")


def judge_census(census: Census, factor: float | None) -> list[Judgement]:
    """All verdicts on a table; ``factor`` is the sampling compensation factor of its angles."""
    return [
        judge_halves(census.split),
        judge_doubles(census.doubles, census.particles),
        judge_poses(census.poses),
        judge_defoci(census.defoci),
        judge_weights(census.weights, census.particles, factor),
    ]

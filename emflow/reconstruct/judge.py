"""Verdicts on reconstructions: what two halves that share nothing agree on, in words."""

from __future__ import annotations

from collections.abc import Mapping

from emflow.reconstruct.agreement import SAME_HALVES, SAME_MAP, Agreement, start_agreement
from emflow.reconstruct.config import ReconstructSharpen
from emflow.reconstruct.sharpen import SharpenedMaps
from emflow.reconstruct.symmetry import Scored
from emflow.step import Judgement

LIKENESS = "Are the half-sets' first maps alike?"
WORTH_ANEW = 1 / 3
"""Share of particles that came since poses were last found from nothing, above which to do so again is worth it."""
BETTER = 0.8
"""New data is better where its CTF fits reach to this part of the earlier fits' resolution, or finer."""


def too_few(particles: int) -> list[Judgement]:
    """Verdict on a set that is too small to try."""
    evidence = "There are no particles." if particles == 0 else f"There are only {particles} particles."
    action = (
        "Look at the micrographs and the picks: are there particles, and is sample.diameter_angstrom right?"
    )
    return [Judgement("Is there a map?", "fail", evidence, action)]


def judge_agreement(question: str, agreement: Agreement, sources: str) -> Judgement:
    """Say to which detail two independent maps agree.

    Parameters
    ----------
    question
        What is asked.
    agreement
        Their curves.
    sources
        What the two maps come from, in words.
    """
    whole, rest = agreement.resolution(), agreement.resolution("aspherical")
    numbers = (
        f"FSC 0.143 at {_angstrom(whole)}; without the spherical part at {_angstrom(rest)} "
        f"({agreement.significance('aspherical'):.0f} standard deviations above noise)"
    )
    given = agreement.given_angstrom
    if not agreement.found and given is not None:
        return Judgement(
            question,
            "fail",
            f"No structure: {sources} agree no further than the map that both began from, which was filtered to "
            f"{given:.0f} Å, or by chance: {numbers}.",
            "Do not interpret the map: noise aligned to any reference gives that reference back. Start from "
            "`emflow reconstruct abinitio`, or look at the particles.",
        )
    if not agreement.found and agreement.is_sphere:
        return Judgement(
            question,
            "warn",
            f"{sources} agree on a ball or hollow shell and on nothing within it: {numbers}. "
            "The map is not resolved beyond the shell.",
            "Do not interpret detail. More particles, a finer pixel, or the right symmetry may help.",
        )
    if not agreement.found:
        return Judgement(
            question,
            "fail",
            f"No structure: {sources} agree no more than chance would: {numbers}.",
            "Do not interpret the map. Look at the particles; more of them, or more random starts "
            "(reconstruct.abinitio.n_starts) may help.",
        )
    claim = agreement.claim_angstrom
    assert claim is not None
    if claim > agreement.diameter_angstrom / 4:
        return Judgement(
            question,
            "warn",
            f"{sources} agree on the overall shape only: {numbers}.",
            "Do not interpret detail inside the particle.",
        )
    if whole is not None and rest is not None and rest > 1.5 * whole:
        return Judgement(
            question,
            "warn",
            f"{sources} agree to {claim:.1f} Å; what agrees beyond that is spherical, a shell's rings: {numbers}.",
            "Take the coarser figure.",
        )
    return Judgement(question, "pass", f"{sources} agree to {claim:.1f} Å: {numbers}.")


def judge_likeness(score: float) -> Judgement:
    """Say whether the first maps of the half-sets are alike as a whole, from their correlation once aligned."""
    evidence = f"Aligned, the half-sets' first maps have a correlation of {score:.2f}."
    if score >= SAME_HALVES:
        return Judgement(LIKENESS, "pass", evidence)
    return Judgement(
        LIKENESS,
        "warn",
        f"{evidence} Those of one structure reach {SAME_HALVES:g}, unless the images are very noisy: one half-set may "
        "have come to a false map, such as a mixture of both hands, or the particles are of several kinds.",
        "Try another reconstruct.abinitio.seed or more max_starts, look at half1.mrc and half2.mrc, and at 2D classes.",
    )


def judge_hand(mirrored: bool) -> Judgement:
    """Say that the hand is open."""
    done = "was inverted" if mirrored else "did not have to be inverted"
    return Judgement(
        "Is the hand right?",
        "unknown",
        f"Projections do not tell a structure from its mirror image. Half 2's map {done} to match half 1's; the hand "
        "of both is a matter of chance.",
        "Compare with a known structure, or look at helices once they show (finer than about 6 Å).",
    )


def judge_starts(likeness: list[list[float]], starts: list[int]) -> Judgement:
    """Say whether the likeliest random starts of a half-set came to the same map.

    Parameters
    ----------
    likeness
        For each half-set, of the finalists' maps to the chosen one's.
    starts
        How many starts each half-set made.
    """
    question = "Do the random starts of a half-set come to the same map?"
    if min(map(len, likeness)) == 0:
        return Judgement(
            question,
            "unknown",
            "In each half-set one start went on.",
            "Set reconstruct.abinitio.n_starts and n_finalists.",
        )
    text = "; ".join(
        f"half {number}: {sum(value > SAME_MAP for value in values)} of the {len(values)} next likeliest of "
        f"{count} starts (correlation {', '.join(f'{value:.2f}' for value in values)})"
        for number, (values, count) in enumerate(zip(likeness, starts, strict=True), start=1)
    )
    if min(start_agreement(values) for values in likeness) <= 1 / (1 + len(likeness[0])):
        return Judgement(
            question,
            "warn",
            f"Alike to the chosen map are, {text}. The best start may be a lucky one.",
            "More starts (reconstruct.abinitio.n_starts) make it safer.",
        )
    return Judgement(question, "pass", f"Alike to the chosen map are, {text}.")


def judge_symmetry(scored: list[Scored] | None) -> Judgement:
    """Say which point group holds; None where the halves agree on nothing."""
    question = "Which symmetry has the map?"
    if scored is None:
        evidence = "The half maps agree on no structure, so nothing can be said."
        return Judgement(question, "unknown", evidence, "Find a map first.")
    best = scored[0]
    numbers = (
        f"its members keep {best.ratio:.2f} of the halves' correlation (the worst {best.least:.2f}; at random axes "
        f"{best.random_ratio:.2f} ± {best.random_deviation:.2f})"
    )
    if not best.holds:
        return Judgement(question, "pass", f"C1: no group holds. The nearest is {best.symmetry}: {numbers}.")
    return Judgement(
        question,
        "pass",
        f"{best.symmetry}: {numbers}.",
        f"Set sample.symmetry: {best.symmetry} and refine from this folder.",
    )


def judge_independence(given_angstrom: float | None) -> Judgement:
    """Say whether the two halves began apart; otherwise, the resolution of what was given to them."""
    question = "Did the two halves begin apart?"
    if given_angstrom is None:
        return Judgement(
            question, "pass", "Each half was refined from its own first map, found from a random start."
        )
    return Judgement(
        question,
        "unknown",
        "The first maps do not come from emflow's ab initio; halves that began from one reference can agree on it. "
        f"They were filtered to {given_angstrom:.0f} Å: what the halves agree on beyond that is their own.",
        "Start from `emflow reconstruct abinitio`, which keeps the halves apart.",
    )


def judge_warm_start(
    metrics: Mapping[str, float | int | None], known_angstrom: float | None, new_angstrom: float | None
) -> list[Judgement]:
    """Say that most poses were taken over, and whether to begin anew is worth it; nothing where all were searched.

    Parameters
    ----------
    metrics
        Of the refinement.
    known_angstrom, new_angstrom
        Median resolution of the CTF fits behind the known and the new particles.
    """
    before, particles = metrics["warm_start_particles"] or 0, metrics["particles"] or 0
    if not before:
        return []
    new, anew = metrics["new_particles"] or 0, metrics["anew_particles"] or 0
    since = particles - anew
    evidence = (
        f"No: {particles - new} particles kept the poses of an earlier refinement of {before}, improved locally; "
        f"{new} new ones were searched over all orientations, each against its own half's map. Poses were last "
        f"found from nothing with {anew} particles; {since} have come since, {since / particles:.0%} of all."
    )
    better = bool(new_angstrom and known_angstrom and new_angstrom < BETTER * known_angstrom)
    if better:
        evidence += (
            f" The new ones are better: CTF fits to {new_angstrom:.1f} Å, {known_angstrom:.1f} Å before."
        )
    worth = since > WORTH_ANEW * particles or (better and since > 0.1 * particles)
    action = (
        "Begin anew (emflow restart PROJECT refine): poses that were wrong stay wrong in a warm start."
        if worth
        else ""
    )
    return [Judgement("Were all poses searched anew?", "warn" if worth else "pass", evidence, action)]


def judge_convergence(iterations: int, most: int) -> Judgement:
    """Say whether the refinement ended by itself."""
    question = "Has the refinement converged?"
    if iterations < most:
        return Judgement(question, "pass", f"Nothing improved any more after {iterations} iterations.")
    return Judgement(
        question,
        "warn",
        f"It was still improving, or at most allowed to go on to {most} iterations.",
        "Raise reconstruct.refine.max_iterations.",
    )


def _angstrom(value: float | None) -> str:
    return "no shell" if value is None else f"{value:.1f} Å"


def judge_control(from_angstrom: float | None) -> list[Judgement]:
    """Say that the particles were a noise control; nothing for data."""
    if from_angstrom is None:
        return []
    return [
        Judgement(
            "Are the particles data?",
            "warn",
            f"No, a noise control: their phases are random beyond {from_angstrom:.1f} Å.",
            "Use these maps for the comparison of `emflow validate noise-compare` only.",
        )
    ]


def judge_sharpening(made: SharpenedMaps, cfg: ReconstructSharpen) -> Judgement:
    """Say which B factor was applied and why."""
    question = "Is the map sharpened by a B factor that it supports?"
    reach, line = _angstrom(made.agreement.claim_angstrom), made.made.line if made.made else None
    if made.made is None:
        return Judgement(
            question,
            "fail",
            "The half maps agree on no structure: both maps for the eye are empty.",
            "Do not lower a threshold to see something: look at the particles.",
        )
    if cfg.bfactor_angstrom2 is not None:
        return Judgement(question, "unknown", f"B factor {cfg.bfactor_angstrom2:.0f} Å², as it was given.")
    if made.fitted and line is not None:
        evidence = (
            f"B factor {made.made.bfactor_angstrom2:.0f} Å², fitted from {line.from_angstrom:.1f} to "
            f"{line.to_angstrom:.1f} Å (correlation {line.correlation:.2f})."
        )
        if line.correlation < 0.7:
            return Judgement(
                question, "warn", evidence, "Look at figures/guinier.png: is that a straight line?"
            )
        return Judgement(question, "pass", evidence)
    if not made.reach_suffices:
        return Judgement(
            question,
            "unknown",
            f"Not sharpened: the map reaches {reach}; a fit needs a third beyond {cfg.bfactor_fit_from_angstrom:g} Å, "
            "and five shells.",
            "Give a B factor (reconstruct.sharpen.bfactor_angstrom2) if you know one.",
        )
    return Judgement(
        question,
        "warn",
        "Not sharpened: the amplitudes do not fall off in the range of the fit.",
        "Were the half maps filtered or sharpened before?",
    )

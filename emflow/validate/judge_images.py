"""Verdicts on what the raw images say: the answer, the evidence, and what to do."""

from __future__ import annotations

from emflow.step import Judgement
from emflow.validate.config import ValidateParticles
from emflow.validate.images import Agreement, RingCurves
from emflow.validate.number import COVERED, Draw, NumberFit
from emflow.validate.outliers import NOISE, NOISE_SCORE, Outliers

OVERFITTED = 0.2
"""Part of the power beyond the resolution that is fitted noise from which on the map is over-fitted."""
REBUILT = 0.8
"""Mean correlation, up to the resolution, below which the half maps are others than the particles make."""


def judge_held_out(agreement: Agreement, resolved: bool) -> Judgement:
    """Say whether the images agree with the map of particles that they share nothing with.

    ``resolved``: whether the half maps agree more than noise does. Refined noise agrees in a rough shape, since the
    halves' frames are brought together; only both together are taken for a particle.
    """
    question = "Do the images agree with a map that they did not make?"
    rings = agreement.rings
    last = reach(rings)
    evidence = (
        f"Against the other half's map the images score {agreement.score.mean():.2f} on average, where noise scores 0: "
        f"{agreement.significance:.1f} standard deviations (5 are asked for)."
    )
    if agreement.significance < 5 or not last or not resolved:
        told = "Nothing is there that both halves share"
        if agreement.significance >= 5:
            told += " but a rough shape, which noise has too once its halves are aligned"
        return Judgement(
            question,
            "fail",
            f"{evidence} {told}.",
            "Do not interpret the map. Look at the picks and the particles first.",
        )
    extent = rings.box * rings.voxel_size_angstrom
    where = f" The mean correlation stands out of the noise to {extent / last:.1f} Å."
    return Judgement(question, "pass", evidence + where)


def reach(rings: RingCurves) -> int:
    """Last ring before the held-out correlation is less than 3 standard errors above zero; 0 if not beyond ring 2.

    Rings 1 and 2, of few pixels and of the shape alone, do not count.
    """
    below = (rings.held_out[3:] < 3 * rings.held_out_error[3:]).nonzero()
    last = int(below[0, 0]) + 2 if len(below) else len(rings.held_out) - 1
    return last if last > 2 else 0


def overfitting(
    rings: RingCurves, resolution_shell: int, *, within: bool = False
) -> tuple[float, float, float] | None:
    """Own − held-out correlation, its standard deviations above zero, and the fitted noise's part of the map's power.

    Pooled over the rings beyond the resolution, or ``within`` it over the finer half of those up to it; None with
    fewer than three.
    """
    first, last = resolution_shell + 1, len(rings.own) - 1
    if within:
        first, last = resolution_shell // 2 + 1, min(resolution_shell, last)
    if last - first < 2:
        return None
    mean, deviations = rings.pooled(rings.difference, rings.difference_error, first, last)
    weight = rings.difference_error[first : last + 1].clamp(min=1e-12) ** -2
    part = float((weight * rings.phantom[first : last + 1]).sum() / weight.sum())
    return mean, deviations, part


def judge_overfitting(
    found: tuple[float, float, float] | None,
    cfg: ValidateParticles,
    within: tuple[float, float, float] | None = None,
) -> Judgement:
    """Say whether the poses follow the noise of their own half's map: judged beyond the resolution, told within it."""
    question = "Do the poses follow noise?"
    if found is None:
        return Judgement(
            question,
            "unknown",
            "The half maps agree up to the last rings: none is left beyond, where only noise could be followed.",
        )
    mean, deviations, part = found
    evidence = (
        f"Beyond the resolution the images correlate with their own half's map, made without them, {mean:+.4f} better "
        f"than with the other half's ({deviations:.1f} standard deviations); {max(part, 0):.0%} of the map's power "
        "there is noise that the poses follow."
    )
    if within is not None and within[1] >= 5:
        evidence += (
            f" Up to the resolution it is {max(within[2], 0):.0%} of the power of the finer rings: there the poses' errors "
            "follow the reference, or the halves' frames lie apart; the FSC of the halves counts neither as signal."
        )
    if deviations < 5 or part < cfg.overfitting_fraction:
        return Judgement(question, "pass", evidence)
    action = "Refine with a coarser limit or a stronger regularisation, and with fewer free poses."
    return Judgement(question, "fail" if part >= OVERFITTED else "warn", evidence, action)


def judge_rebuilt(correlation: float | None) -> Judgement:
    """Say whether the half maps are those that the particles make at their poses."""
    question = "Do these particles make these half maps?"
    if correlation is None:
        return Judgement(question, "unknown", "The half maps have no resolution up to which to compare.")
    evidence = (
        f"Half maps made anew from the images at their poses correlate {correlation:.2f} with the given ones, averaged "
        "over the finer half of the rings up to the resolution."
    )
    if correlation < REBUILT:
        return Judgement(
            question,
            "warn",
            evidence,
            "The half maps were filtered, denoised or enhanced, or belong to other particles or poses: give the raw "
            "half maps and the table they were made from.",
        )
    return Judgement(question, "pass", evidence)


def judge_outliers(outliers: Outliers, total: int, cfg: ValidateParticles) -> Judgement:
    """Say how many images do not show the particle."""
    question = "Does every image show the particle?"
    noise = int((outliers.reason == NOISE).sum())
    evidence = (
        f"{outliers.count} of {total} images do not ({noise} match the map no better than noise, "
        f"{outliers.count - noise} far worse than the others); the usual score is {outliers.usual_score:.1f}."
    )
    if outliers.effective_particles is not None:
        evidence += f" All are worth {outliers.effective_particles:.0f} equally good ones."
    if not outliers.told_apart:
        return Judgement(
            question,
            "unknown",
            f"{evidence} A single image says too little: noise with a fitted pose may reach {NOISE_SCORE:.0f}.",
            "Classify the particles instead.",
        )
    if outliers.count > cfg.outlier_fraction * total:
        return Judgement(
            question,
            "warn",
            evidence,
            "Leave out the images of outliers.star and refine again; look at the picks.",
        )
    return Judgement(question, "pass", evidence)


def judge_number(draws: list[Draw], fit: NumberFit | None, cfg: ValidateParticles) -> Judgement:
    """Say what more particles would bring."""
    question = "Would more particles help?"
    caveat = (
        " All at the poses of the whole set; fewer particles alone would be aligned worse, and beyond the measured "
        "numbers the line need not go on."
    )
    whole = draws[-1] if draws else None
    if fit is None:
        limited = whole is not None and whole.limited
        few = whole is not None and whole.slices < 4 * COVERED
        why = (
            "the pixel or the band, not the number, limits the resolution of most."
            if limited
            else "there are too few particles to divide."
            if few
            else "the resolution does not improve with the number of particles beyond doubt."
        )
        return Judgement(
            question,
            "unknown",
            f"Of {len(draws)} random subsets {sum(d.usable for d in draws)} have a resolution that the number limits; "
            f"no line can be drawn: {why}",
            "Use a smaller pixel."
            if limited
            else "Collect more particles, or look for what else limits the map.",
        )
    evidence = (
        f"B = {fit.bfactor_angstrom2:.0f} Å² (95 %: {fit.bfactor_low_angstrom2:.0f} to "
        f"{fit.bfactor_high_angstrom2:.0f})."
    )
    if whole is not None and whole.resolution_angstrom is not None:
        doubled = fit.resolution_with(2 * whole.particles)
        evidence += f" Now {whole.resolution_angstrom:.2f} Å; twice as many particles: about {doubled:.2f} Å."
        if cfg.target_angstrom is not None:
            evidence += (
                f" {cfg.target_angstrom:g} Å: about {fit.particles_for(cfg.target_angstrom):.3g} particles."
            )
    return Judgement(question, "pass", evidence + caveat)

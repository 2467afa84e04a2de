"""What is said about a fit and about its states."""

from __future__ import annotations

from collections.abc import Mapping

from emflow.heterogeneity.fit import Fit
from emflow.step import Judgement

ACTION_NONE = (
    "Treat the particles as one state. Small motions may need more particles, finer poses or a mask around the "
    "moving part."
)

WORTH_ANEW = 1 / 3
"""Share of particles that came since components were last found from nothing, above which to do so again is worth it."""
PARTLY_RIGID, MOSTLY_RIGID = 0.15, 0.5
"""Of the components' power. True poses gave up to 0.04 on simulated motions, poses off by 4° and half a pixel
0.7 where nothing moved."""


def judge_too_few(why: str) -> Judgement:
    """Nothing can be said."""
    return Judgement(
        "Do the particles differ by more than noise?",
        "unknown",
        f"Not looked for: {why}.",
        "Give more particles with poses.",
    )


def judge_origin(metrics: Mapping[str, float | int | None]) -> list[Judgement]:
    """Say that components were taken over, and whether to begin anew is worth it; nothing where none were."""
    before, anew, now = (
        metrics[name] or 0 for name in ("warm_start_particles", "anew_particles", "particles")
    )
    if not before:
        return []
    since = now - anew
    worth = since > WORTH_ANEW * now
    return [
        Judgement(
            "Were the components found anew?",
            "warn" if worth else "pass",
            f"No: each half went on from its own components of an earlier fit of {before} particles. Components "
            f"were last found from nothing with {anew}; {since} particles have come since, {since / now:.0%} of all.",
            "Begin anew (emflow restart PROJECT heterogeneity): a state that came with them may have been missed."
            if worth
            else "",
        )
    ]


def judge_fit(fit: Fit) -> list[Judgement]:
    """Is there heterogeneity, and do the halves agree on it."""
    question = "Do the particles differ by more than noise?"
    evidence = fit.evidence
    count = int(fit.kept.sum())
    tried = len(fit.kept)
    if not count:
        text = (
            f"No heterogeneity beyond noise: none of {tried} components makes held-out images likelier and is "
            f"found by both halves (best: {float(evidence.gain.max()):.3f} nat per image, latents correlate "
            f"{float(evidence.latent.max()):.2f})"
        )
        return [Judgement(question, "unknown", text + ".", ACTION_NONE)]
    gain = float(evidence.gain[fit.kept].sum())
    latent = evidence.latent[fit.kept]
    text = (
        f"{count} of {tried} components make images that their half did not see likelier, by {gain:.2f} nat per "
        f"image in all; latents by the two halves' models correlate {', '.join(f'{v:.2f}' for v in latent)}."
    )
    worst = float(fit.canonical.min())
    agreement = (
        f"Canonical correlations of the halves' components: {', '.join(f'{v:.2f}' for v in fit.canonical)} "
        "(unfiltered volumes)."
    )
    answer = "pass" if float(latent.min()) >= 0.7 else "warn"
    action = (
        ""
        if answer == "pass"
        else "Do not interpret the last coordinates one by one; collect more particles."
    )
    rows = [Judgement(question, "pass", text, "")]
    rows.append(Judgement("Do independent halves find the same motions?", answer, agreement, action))
    if worst < 0.1:
        rows[-1] = rows[-1]._replace(verdict="warn", action="Use fewer components or more particles.")
    rigid = judge_rigid(fit.rigid_total())
    if fit.rigid_total() >= MOSTLY_RIGID:
        rows[0] = rows[0]._replace(verdict="warn", action=rigid.action)
    return [*rows, rigid]


def judge_rigid(fraction: float) -> Judgement:
    """Do the components look like errors of the poses."""
    question = "Could errors of the poses look like this?"
    text = f"Shifts and turns of the whole map explain {100 * fraction:.0f} % of the components' power"
    if fraction >= MOSTLY_RIGID:
        action = "Refine the poses further before reading this as motions or states."
        return Judgement(question, "fail", text + ": most of it is what imprecise poses look like.", action)
    if fraction >= PARTLY_RIGID:
        action = "Look at component_NN_rigid_fraction, and at the volumes, before naming a motion."
        return Judgement(question, "warn", text + ".", action)
    return Judgement(question, "pass", text + ".", "")


def judge_states(count: int, separation: float | None, smallest: int) -> Judgement:
    """Are the states distinct or cuts through a continuum."""
    question = "Are the states distinct?"
    if count < 2 or separation is None:
        return Judgement(question, "unknown", "One state: nothing divides the particles.", "")
    text = (
        f"{count} states, the smallest of {smallest} particles; silhouette {separation:.2f} "
        "(1: far apart, 0: touching)."
    )
    if separation >= 0.4:
        return Judgement(question, "pass", text, "")
    return Judgement(
        question,
        "warn",
        text + " The coordinates look continuous: the states are cuts through a motion.",
        "Read the volumes along the coordinates rather than the states.",
    )


def judge_stability(stability: float | None) -> list[Judgement]:
    """Would another sample of the particles give the same states; nothing with one state."""
    if stability is None:
        return []
    question = "Would other particles give the same states?"
    text = (
        f"Resampled particles give states that agree with these by an adjusted Rand index of {stability:.2f}."
    )
    if stability >= 0.75:
        return [Judgement(question, "pass", text)]
    action = "Ask for fewer states (states), or read the coordinates rather than the states."
    return [Judgement(question, "warn", text, action)]


def judge_path(closed: bool, explained: float, far: float, deviation: float) -> list[Judgement]:
    """Does a path lie among the particles, and do they lie along it."""
    kind = "loop" if closed else "path"
    among = f"Its farthest point from the particles is at {far:.2f} of the distance that 99 of 100 particles keep."
    along = (
        f"The {kind} explains {explained:.0%} of the variance of the coordinates, in the metric of the volumes; the place "
        f"of a particle is uncertain by {deviation:.0%} of the length."
    )
    rows = [
        Judgement("Does the path stay among the particles?", "pass", among)
        if far <= 1.5
        else Judgement(
            "Does the path stay among the particles?",
            "warn",
            among,
            "Do not interpret the volumes where it leaves them.",
        )
    ]
    question = "Do the particles lie along the path?"
    if explained >= 0.5 and deviation <= 0.2:
        return [*rows, Judgement(question, "pass", along)]
    action = (
        "Read it as one way through a broader cloud, not as the motion; look at the other coordinates too."
    )
    return [*rows, Judgement(question, "warn", along, action)]


_HIGH_BARRIER = 2.0


def judge_barrier(height: float) -> Judgement:
    """Does a path cross a sparse place, where particles may be there by their own uncertainty only."""
    question = "Are there particles all along the path?"
    text = f"The highest pass along the path stands {height:.1f} k_B·T above the valleys beside it."
    if height < _HIGH_BARRIER:
        return Judgement(question, "pass", text)
    return Judgement(
        question,
        "warn",
        text + " Particles there may belong to either side and be blurred by their images' noise.",
        "Look at figures/density.png of analyze, which has the noise taken out, before reading the volumes there.",
    )

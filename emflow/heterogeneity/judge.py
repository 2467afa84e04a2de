"""What is said about a fit and about its states."""

from __future__ import annotations

from typing import NamedTuple

from emflow.heterogeneity.fit import Fit

ACTION_NONE = (
    "Treat the particles as one state. Small motions may need more particles, finer poses or a mask around the "
    "moving part."
)


class Judgement(NamedTuple):
    """A row of verdicts.json."""

    question: str
    answer: str
    evidence: str
    action: str


def judge_too_few(why: str) -> Judgement:
    """Nothing can be said."""
    return Judgement(
        "Do the particles differ by more than noise?",
        "unknown",
        f"Not looked for: {why}.",
        "Give more particles with poses.",
    )


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
        rows[-1] = rows[-1]._replace(answer="warn", action="Use fewer components or more particles.")
    return rows


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

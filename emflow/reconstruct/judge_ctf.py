"""What the refinement of the CTF may claim, in words."""

from __future__ import annotations

from emflow.reconstruct.agreement import Agreement
from emflow.reconstruct.ctf_refine import CtfFit, Gain, Tilt
from emflow.step import Judgement

HOLDS = "Does the refinement of the CTF hold?"


def no_structure(agreement: Agreement) -> list[Judgement]:
    """Verdict where the half maps agree on nothing: there is no reference to fit to."""
    return [
        Judgement(
            HOLDS,
            "fail",
            "The half maps agree on no structure "
            f"({agreement.significance('aspherical'):.1f} standard deviations above noise; 8 are asked for): "
            "a CTF fitted to them would be fitted to noise. Nothing was changed.",
            "Look at the verdicts of the refinement first.",
        )
    ]


def judge_ctf(fit: CtfFit, before: Agreement, after: Agreement | None) -> list[Judgement]:
    """Verdicts on what was fitted."""
    judgements = [_defocus(fit)]
    judgements += [_tilt(fit, tilt) for tilt in fit.tilts]
    if fit.gain_envelope is not None:
        judgements.append(_envelope(fit, fit.gain_envelope))
    if after is not None:
        judgements.append(_map(before, after))
    return judgements


def _words(gain: Gain) -> str:
    return f"{gain.mean:.2f} ± {gain.error:.2f}"


def _defocus(fit: CtfFit) -> Judgement:
    """Whether offsets found in one half of the Fourier pixels are borne out by the other half."""
    if not fit.seen:
        contrast = min(contrasts.common for contrasts in fit.contrasts)
        return Judgement(
            HOLDS,
            "fail",
            f"The images hardly show the map at the poses given: their contrast is {contrast:.2f} where the map's is 1. "
            "Nothing was changed.",
            "Give the particles.star and the half maps of one refinement.",
        )
    evidence = (
        "Log-likelihood that a defocus found in half of the Fourier pixels gains in the other half, a particle: "
        f"{_words(fit.gain_micrograph)} with one offset a micrograph, {_words(fit.gain_beyond)} more with one a "
        "particle (noise gains nothing)."
    )
    if fit.gain_astigmatism is not None:
        done = "applied" if bool(fit.changes.astigmatism_angstrom.any()) else "not applied"
        evidence += (
            f" Astigmatism found from half of the particles gains {_words(fit.gain_astigmatism)} in the others: "
            f"{done}."
        )
    if fit.level == "none" and not bool(fit.changes.astigmatism_angstrom.any()):
        return Judgement(
            HOLDS,
            "unknown",
            f"The images do not tell the defocus better than the table does; it was left as it is. {evidence}",
            "More particles or a finer map may tell; at coarse resolution the defocus matters little.",
        )
    if fit.at_edge > 0.1:
        return Judgement(
            HOLDS,
            "warn",
            f"{fit.at_edge:.0%} of the particles are likeliest at the end of the range that was searched. {evidence}",
            "Check pixel size, voltage and the CTF fit; or raise reconstruct.ctf.search_range_angstrom.",
        )
    applied = {
        "particle": f"Each particle has a defocus of its own, known to ± {float(fit.deviation.median()):.0f} Å (median).",
        "micrograph": "Particles have the defocus of their micrograph; the images do not tell more.",
        "none": "The defocus was left as it is.",
    }[fit.level]
    return Judgement(HOLDS, "pass", f"{applied} {evidence}")


def _tilt(fit: CtfFit, tilt: Tilt) -> Judgement:
    """Whether both halves find the same tilt."""
    question = f"Is the beam tilt of optics group {tilt.group + 1} the same in both halves?"
    one, two = (half.tilt_mrad.tolist() for half in tilt.halves)
    evidence = (
        f"Half 1 finds {one[0]:.3f}, {one[1]:.3f} mrad beyond the table's, half 2 {two[0]:.3f}, {two[1]:.3f}; each gains "
        f"{_words(tilt.gains[0])} and {_words(tilt.gains[1])} of log-likelihood in the other's images."
    )
    if not tilt.applied:
        return Judgement(question, "unknown", f"No tilt is borne out; the table's was kept. {evidence}", "")
    last = next((late for late in fit.final_tilts if late.group == tilt.group), tilt)
    return Judgement(
        question,
        "pass",
        f"{evidence} Both halves take the mean, which is a property of the microscope; at the refined defocus they differ "
        f"by {last.difference_mrad:.3f} mrad, so it is known to about ± {0.5 * last.difference_mrad:.3f}.",
    )


def _envelope(fit: CtfFit, gain: Gain) -> Judgement:
    """Whether micrographs differ in strength and fall-off beyond what chance would show."""
    question = "Do micrographs differ in how much detail their particles hold?"
    evidence = (
        "Scale and B factor found from half of a micrograph's particles gain, in the others, "
        f"{_words(gain)} of log-likelihood a particle."
    )
    if fit.log_scale is None or fit.b_factor_angstrom2 is None:
        return Judgement(
            question, "unknown", f"No difference is borne out; all weigh the same. {evidence}", ""
        )
    low, high = (float(fit.b_factor_angstrom2.quantile(q)) for q in (0.05, 0.95))
    weak, strong = (float(fit.log_scale.quantile(q).exp()) for q in (0.05, 0.95))
    return Judgement(
        question,
        "pass",
        f"Yes, and particles are weighed by it: B factors from {low:.0f} to {high:.0f} Å² about the mean, scales from "
        f"{weak:.2f} to {strong:.2f} (5 to 95 % of the particles). {evidence}",
    )


def _map(before: Agreement, after: Agreement) -> Judgement:
    """Whether the half maps agree better than before."""
    question = "Do the half maps agree better with the refined CTF?"
    shells = int((before.whole > 0.143).sum())
    old, new = (float(each.whole[1 : shells + 1].clamp(min=-1).mean()) for each in (before, after))
    evidence = (
        f"At the same poses FSC 0.143 goes from {_angstrom(before.resolution())} to {_angstrom(after.resolution())}, the "
        f"mean FSC up to there from {old:.3f} to {new:.3f}."
    )
    if new >= old:
        return Judgement(question, "pass", evidence)
    return Judgement(
        question,
        "warn",
        f"{evidence} The likelihood gained, the map did not.",
        "Refine again with both tables, and keep what validates better.",
    )


def _angstrom(value: float | None) -> str:
    return "no shell" if value is None else f"{value:.2f} Å"

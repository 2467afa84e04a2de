"""Verdicts on the half maps themselves: are they a pair, raw, unmasked, and free of what they should not share."""

from __future__ import annotations

import math

from emflow.step import Judgement
from emflow.validate.enhanced import NoiseField
from emflow.validate.overlay import Overlay
from emflow.validate.sanity import Filtering, Likeness, MaskShape, Solvent


def judge_overlay(found: Overlay, voxel_size_angstrom: float) -> Judgement:
    """Say whether the halves lie on each other: shift, rotation, hand."""
    question = "Do the half maps lie on each other?"
    if found.significance < 6:
        evidence = "The halves agree too little to tell how one lies on the other."
        return Judgement(question, "unknown", evidence, "Look at the verdict on resolution first.")
    if found.mirrored:
        return Judgement(
            question,
            "fail",
            f"Half 2 is the mirror image of half 1: as they are they correlate {found.score_given:.2f}, after "
            f"mirroring {found.score:.2f} (mean FSC to shell {found.band}).",
            "Invert one half, or refine both from one hand; then run this again.",
        )
    length = math.hypot(*found.shift_px)
    moved = (
        f"Half 2 is shifted by {length:.2f} voxels ({length * voxel_size_angstrom:.2f} Å; z, y, x "
        f"{', '.join(f'{value:.2f}' for value in found.shift_px)}) and turned by {found.rotation_deg:.1f}°"
    )
    significant = found.loss > 0.05 and (
        length > 4 * found.error_px or found.rotation_deg > 1 or found.score > found.score_given + 0.1
    )
    if not significant:
        return Judgement(
            question, "pass", f"{moved}: less than 5 % of the FSC at the resolution, or within the error."
        )
    return Judgement(
        question,
        "fail" if found.loss > 0.3 else "warn",
        f"{moved}. At the resolution that takes away {100 * found.loss:.0f} % of the FSC.",
        "Align the halves by what made them (not by interpolating one of the maps), and run this again.",
    )


def judge_likeness(found: Likeness, tolerance: float) -> Judgement:
    """Say whether the halves have equal spectra.

    Parameters
    ----------
    found
        Ratios of the halves' power.
    tolerance
        Factor by which ratios scatter by chance (1 for none): few independent Fourier pixels.
    """
    question = "Are the two half maps alike?"
    spread = max(found.noise_range, found.signal_range)
    uneven = max(found.noise_ratio, 1 / max(found.noise_ratio, 1e-9))
    scaled = max(found.scale, 1 / max(found.scale, 1e-9))
    evidence = (
        f"Amplitudes of the signal: half 1 is {found.scale:.2f} times half 2. Power of the noise, relative to the "
        f"signal's: {_times(found.noise_ratio)}. From band to band of frequencies the ratio of the halves varies by a "
        f"factor of {_times(spread)}."
    )
    if spread > 4 * tolerance or uneven > 6 * tolerance:
        return Judgement(
            question,
            "fail",
            f"{evidence} One half was filtered, or the halves come from very unequal numbers of particles.",
            "Give both halves as the refinement left them.",
        )
    if spread > 2 * tolerance or uneven > 2.2 * tolerance or scaled > 1.3 * tolerance:
        return Judgement(
            question,
            "warn",
            f"{evidence} The halves were scaled or filtered differently, or are unbalanced.",
            "Give both halves as the refinement left them; look at the balance of the half-sets.",
        )
    return Judgement(question, "pass", evidence)


def judge_filtering(found: Filtering, directional: list[float], box: int, voxel: float) -> Judgement:
    """Say whether the halves were filtered, resampled or sharpened."""
    question = "Are the half maps unfiltered?"
    low, high = min(directional), max(directional)
    if found.modulation > 0.04 and found.modulation_significance > 12:
        return Judgement(
            question,
            "fail",
            f"The noise is periodically stronger and weaker in space (by {found.modulation:.2f}, "
            f"{found.modulation_significance:.0f} times the ripple of raw maps): the maps were rotated, shifted or "
            "scaled by interpolating between voxels.",
            "Give the half maps as reconstructed, on their own grid.",
        )
    if found.cut_shell is not None:
        at = box * voxel / found.cut_shell
        return Judgement(
            question,
            "warn",
            f"From {at:.2f} Å on the halves hold no noise: a low-pass, or voxels finer than the data (zero-padded "
            "in Fourier space).",
            "Give unfiltered half maps; beyond the cut no curve can show that agreement ends.",
        )
    if high < 0.6 or low > 2:
        return Judgement(
            question,
            "fail",
            f"Near Nyquist the noise along the axes is {low:.2f} to {high:.2f} times that along the diagonals (raw maps: "
            "1): the maps were shifted or scaled by interpolating between voxels.",
            "Give the half maps as reconstructed, on their own grid.",
        )
    if found.rise < 0.1:
        return Judgement(
            question,
            "warn",
            f"Towards Nyquist the noise falls to {found.rise:.3f} of what raw maps have: a gradual low-pass, a positive "
            "B factor, or an interpolation.",
            "Give unfiltered half maps.",
        )
    if found.rise > 6:
        return Judgement(
            question,
            "warn",
            f"Towards Nyquist the noise rises {found.rise:.0f} times as much as raw maps' does: the maps are sharpened.",
            "Give half maps without sharpening.",
        )
    evidence = f"The noise runs to Nyquist ({found.rise:.2f} of a rise in proportion to frequency), alike in all places."
    return Judgement(question, "pass", evidence)


def judge_solvent(found: Solvent, mask_fraction: float) -> Judgement:
    """Say whether the halves were masked already; ``mask_fraction`` is the mask's volume over the box's."""
    question = "Are the half maps unmasked?"
    if math.isnan(found.flat_fraction):
        return Judgement(question, "unknown", "The mask leaves no solvent to look at.", "Use a larger box.")
    share = 100 * found.flat_fraction
    evidence = f"{share:.0f} % of the solvent within the inscribed sphere holds no noise."
    if found.flat_fraction < 0.5:
        return Judgement(question, "pass", evidence)
    if found.support_fraction < 2.5 * mask_fraction:
        return Judgement(
            question,
            "fail",
            f"{evidence} The halves were multiplied by a tight mask: what is called the unmasked FSC is a masked one, and "
            "the mask's edge is common to both.",
            "Give the half maps before any mask.",
        )
    return Judgement(
        question,
        "warn",
        f"{evidence} The halves end at a mask that holds {100 * found.support_fraction:.0f} % of the box.",
        "Fine where that is a wide sphere; better give the half maps before any mask.",
    )


def judge_contrast(skew: float, excess: float) -> Judgement:
    """Say whether protein is bright."""
    question = "Is the particle bright?"
    evidence = f"Low-passed, the densities' skewness is {skew:.1f}; what stands out is bright by {excess:.2f} (−1 to 1)."
    if excess > 0.3 and skew > 0:
        return Judgement(question, "pass", evidence)
    if excess < -0.5 and skew < -0.3:
        return Judgement(
            question,
            "fail",
            f"{evidence} The contrast is inverted: protein is dark.",
            "Multiply the maps by −1.",
        )
    return Judgement(
        question, "unknown", f"{evidence} No particle stands out.", "Look at the map's slices (map.png)."
    )


def judge_scale(box: int, voxel: float, optics: list[tuple[float, int]] | None) -> Judgement:
    """Say whether maps and particle images have one scale.

    Parameters
    ----------
    box, voxel
        Of the maps.
    optics
        Pixel size (Å) and box of each optics group's images; None if unknown.
    """
    question = "Do the maps have the particles' scale?"
    if not optics:
        return Judgement(
            question,
            "unknown",
            "No optics table with pixel and image size was given; from the maps alone nobody can tell.",
            "Give --particles.",
        )
    extent = box * voxel
    images = ", ".join(sorted({f"{size} px of {pixel:g} Å" for pixel, size in optics}))
    evidence = f"Maps: {box} voxels of {voxel:g} Å. Images: {images}."
    # cropped or padded in Fourier space, the extent stays; cropped in space, the pixel stays
    fits = [
        abs(size * pixel / extent - 1) < 0.005 or (size != box and abs(pixel / voxel - 1) < 0.005)
        for pixel, size in optics
    ]
    if all(fits):
        return Judgement(question, "pass", evidence)
    return Judgement(
        question,
        "fail" if not any(fits) else "warn",
        f"{evidence} Neither side nor pixel agree: one of the two sizes is wrong, and with it every resolution.",
        "Find the right pixel size; give it as --voxel-size-angstrom if the maps' headers are wrong.",
    )


def judge_rawness(field: NoiseField) -> Judgement:
    """Say whether the noise is that of raw maps, or of restored ones."""
    question = "Does the noise look raw?"
    if field.solvent_fraction < 0.01:
        return Judgement(
            question,
            "unknown",
            "The mask leaves no solvent to compare the particle's noise with.",
            "Use a larger box.",
        )
    where = "beyond the resolution" if field.beyond else "in the upper third of the shells"
    shown = f"{field.contrast:.2f}" if field.contrast < 1000 else "over 1000"
    evidence = (
        f"Noise {where}: {shown} times as strong within the particle as in the solvent (raw maps: about 1); excess "
        f"kurtosis {field.kurtosis:.2f} (raw maps: 0)."
    )
    # where all shells hold signal, disorder and misalignment make the particle noisier by right
    warn, fail = ((1.7, 0.25), (3.0, 0.6)) if field.beyond else ((3.0, 0.35), (6.0, 0.8))
    collapsed, sparse = field.contrast > warn[0], field.kurtosis > warn[1]
    action = "Give the raw half maps: not denoised, not enhanced by a network, not masked."
    if field.contrast > fail[0] or field.kurtosis > fail[1] or (collapsed and sparse):
        return Judgement(
            question,
            "fail",
            f"{evidence} The solvent was cleaned or the maps were denoised (a network, non-local means, wavelets, a mask).",
            action,
        )
    if collapsed or sparse:
        return Judgement(
            question, "warn", f"{evidence} Something other than averaging has shaped the noise.", action
        )
    return Judgement(question, "pass", evidence)


def judge_common(field: NoiseField) -> Judgement:
    """Say whether the halves share what independent halves cannot."""
    question = "Do the halves share noise?"
    known = field.solvent_fraction >= 0.01 and field.contrast < 1e3
    solvent = (
        f"In the solvent the FSC is {field.plateau:.3f} ± {field.plateau_error:.3f}"
        if known
        else "There is no solvent to look at"
    )
    evidence = f"{solvent}; within the mask it ends at {field.inside_plateau:.2f} near Nyquist."
    if known and field.plateau > 0.1 and field.plateau > 6 * field.plateau_error:
        return Judgement(
            question,
            "fail",
            f"{evidence} Where no particle is nothing should agree: the halves share images, were refined together, or "
            "carry one reference's noise.",
            "Split the particles by micrograph and refine each half by itself, from a start of its own.",
        )
    held_up = field.inside_plateau > max(0.15, 8 * field.inside_error) and field.last_fall < 0.3
    if held_up and field.inside_plateau < 0.4:
        return Judgement(
            question,
            "fail",
            f"{evidence} The curve stops falling there and stays on a plateau to Nyquist: over-fitted noise that is common "
            "to the halves, as when they were not refined apart.",
            "Refine the halves apart; test with phases randomised in the images.",
        )
    if held_up:
        return Judgement(
            question,
            "warn",
            f"{evidence} It does not fall: either the data reach beyond the voxel, or the halves share noise.",
            "Extract with a smaller pixel: an honest curve then falls, a shared one does not.",
        )
    return Judgement(question, "pass" if known else "unknown", evidence)


def judge_mask_shape(shape: MaskShape) -> Judgement:
    """Say whether the mask follows the particle or the noise."""
    question = "Is the mask that of a particle?"
    evidence = (
        f"{shape.components} pieces, the largest with {100 * shape.largest_fraction:.0f} % of the volume; surface "
        f"{shape.surface_ratio:.1f} times a ball's; FSC of mask and map beyond the resolution "
        f"{shape.noise_correlation:.2f}."
    )
    action = "Make the mask from the map low-passed to 15 Å, with a soft edge."
    follows = shape.noise_correlation > 0.1 and shape.noise_deviations > 5
    specks = shape.components > 30 and shape.largest_fraction < 0.95
    if follows or (specks and shape.surface_ratio > 4):
        return Judgement(
            question, "fail", f"{evidence} The mask was cut to the noise, which it then correlates.", action
        )
    if specks or shape.surface_ratio > 8:
        return Judgement(question, "warn", f"{evidence} It is ragged.", action)
    return Judgement(question, "pass", evidence)


def judge_records(facts: dict[str, bool | None]) -> Judgement:
    """Say what is proved about the halves from the reconstruction's own files.

    Parameters
    ----------
    facts
        Statement that must hold for independent halves → whether it does; None where nothing is known.
    """
    question = "Is it on record that the halves share nothing?"
    if not facts:
        return Judgement(
            question,
            "unknown",
            "No folder of the reconstruction was given. Two halves aligned to one reference agree on that reference, even "
            "if every image is noise; half maps alone cannot show it.",
            "Give --reconstruct, or repeat the refinement from independent random starts.",
        )
    wrong = [name for name, holds in facts.items() if holds is False]
    open_ = [name for name, holds in facts.items() if holds is None]
    proved = [name for name, holds in facts.items() if holds]
    if wrong:
        return Judgement(
            question,
            "fail",
            f"Not so: {'; '.join(wrong)}.",
            "Split by micrograph and refine the halves apart.",
        )
    if open_:
        return Judgement(
            question,
            "unknown",
            f"On record: {'; '.join(proved) or 'nothing'}. Not on record: {'; '.join(open_)}.",
            "Keep the records of the run (results/PROJECT/records) beside the reconstruction.",
        )
    return Judgement(question, "pass", f"On record: {'; '.join(proved)}.")


def _times(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else "over 1000"

"""What the vem room's verbs for images write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emflow.io.record import verdict
from emflow.vem.hidden import Judged
from emflow.vem.register import Registered

Metrics = dict[str, float | int | None]
_SAME_FIELD = "Do the two images of each pair show the same field?"
_BETTER = "Are hidden parts restored better than by the best Gaussian filter?"
_HOLDS = "Does the interval hold where it was not calibrated?"
_ALIKE = "Are brightness, contrast and noise of the images those that the model was trained on?"


_OTHER = (
    "Set rescale, if brightness or contrast were set otherwise; where noise differs, train on a pair that has it: the "
    "interval does not hold."
)


@dataclass(frozen=True)
class Applied:
    """What is known of one image that was denoised, in deviations of the images that were trained on."""

    name: str
    shift: float
    """Of its mean."""
    contrast: float
    """Its deviation over theirs."""
    noise: float
    """Level of its finest detail over theirs."""
    half_width: float
    """Mean half-width of the interval over the image's own deviation."""


def pair_metrics(found: Sequence[Registered], set_aside: int, judged: Judged, blend: float | None) -> Metrics:
    """Figures of a training on pairs; those of the registration are the largest, or smallest, of all pairs."""
    return {
        "pairs": len(found),
        "pairs_set_aside": set_aside,
        "shift_px": max((r.shift_px[0] ** 2 + r.shift_px[1] ** 2) ** 0.5 for r in found),
        "local_displacement_px": max(r.local_px for r in found),
        "matched_share": min(float(r.matched.mean()) for r in found),
        "correlation": min(r.correlation for r in found),
        "fine_tuned_share": blend,
        "held_out_share": judged.share,
        "held_out_psnr_db": judged.psnr_db,
        "held_out_psnr_noisy_db": judged.psnr_noisy_db,
        "held_out_psnr_gaussian_db": judged.psnr_gaussian_db,
        "gaussian_px": judged.gaussian_px,
        "held_out_coverage": judged.coverage,
        "interval_in_scales": judged.quantile,
    }


def pair_verdicts(metrics: Metrics, refused: Sequence[str], coverage: float) -> list[dict[str, str]]:
    """Whether the pairs are pairs, whether something was learned from them, and whether the interval holds."""
    number = {name: value for name, value in metrics.items() if value is not None}
    matched = (
        f"{number['pairs']} pairs; at least {100 * number['matched_share']:.0f} % of each matches, after shifts of up to "
        f"{number['shift_px']:.1f} px and local displacements of {number['local_displacement_px']:.2f} px (rms)."
    )
    if refused:
        matched += f" Set aside: {'; '.join(refused)}"
    whole = not refused and number["matched_share"] > 0.9
    gain = number["held_out_psnr_db"] - number["held_out_psnr_gaussian_db"]
    better = (
        f"PSNR {number['held_out_psnr_db']:.2f} dB on the {100 * number['held_out_share']:.0f} % that were hidden; noisy "
        f"{number['held_out_psnr_noisy_db']:.2f} dB, Gaussian filter of {number['gaussian_px']:g} px "
        f"{number['held_out_psnr_gaussian_db']:.2f} dB, intensities matched."
    )
    held = number["held_out_coverage"]
    holds = f"It holds {100 * held:.1f} % of hidden pixels, {100 * coverage:g} % is stated."
    return [
        verdict(
            _SAME_FIELD,
            "pass" if whole else "warn",
            matched,
            "" if whole else "Look at what was set aside; it was not learned from.",
        ),
        verdict(
            _BETTER,
            "pass" if gain > 0.3 else "warn" if gain > 0 else "fail",
            better,
            ""
            if gain > 0.3
            else "Give more pairs, or a clean image of less noise; in noise there is nothing to gain.",
        ),
        verdict(
            _HOLDS,
            "pass" if abs(held - coverage) < 0.03 else "warn",
            holds,
            ""
            if abs(held - coverage) < 0.03
            else "The field is not of one kind: give pairs of all that is imaged.",
        ),
    ]


def alone_metrics(images: int, noise: float, quantile: float) -> Metrics:
    """Figures of a training on noisy images alone."""
    return {"images": images, "noise_in_deviations": noise, "interval_in_scales": quantile}


def alone_verdicts(metrics: Metrics) -> list[dict[str, str]]:
    """Nothing can be scored where there is one noisy image of each field."""
    evidence = (
        f"{metrics['images']} images without a second one of their field; noise of "
        f"{metrics['noise_in_deviations']:.2f} deviations of the images was found in them."
    )
    return [
        verdict(
            question,
            "unknown",
            evidence,
            "Give a second image of one field (--clean), noisy or not, to have it scored.",
        )
        for question in (_BETTER, _HOLDS)
    ]


def applied_metrics(done: Sequence[Applied], set_aside: int) -> Metrics:
    """Figures of images that were denoised."""
    return {
        "images": len(done),
        "images_set_aside": set_aside,
        "interval_half_width_in_deviations": sum(a.half_width for a in done) / len(done),
        "largest_shift_in_deviations": max(abs(a.shift) for a in done),
        "largest_contrast_ratio": max(max(a.contrast, 1 / max(a.contrast, 1e-9)) for a in done),
        "largest_noise_ratio": max(max(a.noise, 1 / max(a.noise, 1e-9)) for a in done),
    }


def applied_verdicts(done: Sequence[Applied], refused: Sequence[str], shipped: bool) -> list[dict[str, str]]:
    """Whether the model is for these images, and which of them were not denoised."""
    if shipped:
        found = verdict(
            _HOLDS,
            "unknown",
            "The shipped weights know made-up tissue only: the interval was calibrated on that.",
            "Train on one registered pair of images (emflow vem train-images), which takes a minute.",
        )
    else:
        other = [
            a.name
            for a in done
            if abs(a.shift) > 1 or not (2 / 3 < a.contrast < 1.5 and 2 / 3 < a.noise < 1.5)
        ]
        evidence = (
            f"{len(other)} of {len(done)} images differ by more than a deviation in brightness, or by half in contrast or "
            "noise"
        )
        found = verdict(
            _ALIKE,
            "warn" if other else "pass",
            f"{evidence}: {', '.join(other[:10])}." if other else f"{evidence}.",
            _OTHER if other else "",
        )
    if not refused:
        return [found]
    return [
        found,
        verdict("Could every image be denoised?", "warn", "; ".join(refused), "Mend or remove these."),
    ]

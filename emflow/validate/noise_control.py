"""High-resolution noise substitution: what does the refinement find where there is only noise?

The phases of every image are replaced by random ones beyond a resolution; their amplitudes, and so the
noise's power, stay. Refined with the same settings, such images hold nothing there that two halves could
share: what their half maps agree on is the doing of the refinement and of the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from emflow.em.fsc import corrected_fsc, resolution_at
from emflow.figure import BLUE, GREEN, INK, ORANGE, RED, figure, styled
from emflow.step import Judgement
from emflow.validate.config import HalfMaps
from emflow.validate.figures import resolution_axis
from emflow.validate.finding import Finding
from emflow.validate.maps import THRESHOLD, HalfMapCurves, compare_halves


def substitute_noise(images: Tensor, from_shell: int, generator: torch.Generator) -> Tensor:
    """Replace the phases of images by random ones from a ring on, keeping every amplitude.

    Parameters
    ----------
    images
        Real, (B, n, n), n even.
    from_shell
        Radius in Fourier pixels from which phases are random; the corners beyond n/2 are too.
    generator
        CPU generator.

    Source: Chen et al., Ultramicroscopy 135, 24 (2013).
    """
    n = images.shape[-1]
    spectrum = torch.fft.rfft2(images)
    noise = torch.randn(images.shape, generator=generator, dtype=images.dtype).to(images.device)
    phase = torch.fft.rfft2(noise).angle()
    full = torch.fft.fftfreq(n, 1 / n, device=images.device).square()
    half = torch.fft.rfftfreq(n, 1 / n, device=images.device).square()
    chosen = full[:, None] + half >= from_shell**2
    return torch.fft.irfft2(torch.where(chosen, torch.polar(spectrum.abs(), phase), spectrum), s=(n, n))


@dataclass(frozen=True)
class Control:
    """Half maps of the particles and of the control."""

    curves: HalfMapCurves
    control: HalfMapCurves
    from_shell: int
    true: Tensor
    """(FSC_t − FSC_n)/(1 − FSC_n) of the masked maps, (shells,)."""

    @property
    def resolution_angstrom(self) -> float | None:
        """Where the true curve falls below 0.143."""
        return resolution_at(self.true, THRESHOLD, self.curves.box, self.curves.voxel_size_angstrom)

    @property
    def left(self) -> tuple[float, float] | None:
        """Mean unmasked FSC of the control from two shells beyond the substitution on, and its deviation under noise."""
        first = self.from_shell + 2
        sigma = self.control.noise_deviation[first:]
        if len(sigma) < 3:
            return None
        weight = sigma**-2
        mean = (weight * self.control.unmasked[first:]).sum() / weight.sum()
        return float(mean), float(weight.sum().rsqrt())


def compare_control(
    halves: tuple[Tensor, Tensor],
    control: tuple[Tensor, Tensor],
    mask: Tensor,
    voxel_size_angstrom: float,
    from_angstrom: float,
    cfg: HalfMaps,
) -> Control:
    """Compare half maps (n, n, n) of the particles and of their noise control."""
    curves = compare_halves(*halves, mask, voxel_size_angstrom, cfg)
    noise = compare_halves(*control, mask, voxel_size_angstrom, cfg)
    shell = ring_of(from_angstrom, curves.box, voxel_size_angstrom)
    return Control(curves, noise, shell, corrected_fsc(curves.masked, noise.masked, shell))


def ring_of(resolution_angstrom: float, box: int, pixel_size_angstrom: float) -> int:
    """Fourier ring of a resolution."""
    return round(box * pixel_size_angstrom / resolution_angstrom)


def judge_control(found: Control) -> Judgement:
    """Say whether the refinement makes half maps agree on noise."""
    question = "Does the refinement find nothing in noise?"
    left = found.left
    if left is None:
        return Judgement(
            question,
            "unknown",
            "Too few shells lie beyond the substitution.",
            "Substitute from a coarser resolution on.",
        )
    mean, deviation = left
    start = found.curves.box * found.curves.voxel_size_angstrom / found.from_shell
    evidence = (
        f"Where the images hold only noise, beyond {start:.1f} Å, the control's half maps correlate {mean:.3f} "
        f"(noise: ±{deviation:.3f}). "
    )
    resolution = found.resolution_angstrom
    evidence += (
        f"Corrected by it the FSC falls below 0.143 at {resolution:.2f} Å."
        if resolution
        else "No resolution is left."
    )
    if mean > max(0.05, 5 * deviation):
        answer = "fail" if mean > THRESHOLD else "warn"
        return Judgement(
            question,
            answer,
            evidence,
            "The halves share more than the particle: a reference, or a mask on the half maps.",
        )
    return Judgement(question, "pass", evidence)


def assess_control(found: Control) -> Finding:
    """Put together what a control says."""
    left = found.left
    lists = {
        "true": found.true, "masked": found.curves.masked, "control_masked": found.control.masked,
        "control_unmasked": found.control.unmasked,
    }  # fmt: skip
    extent = found.curves.box * found.curves.voxel_size_angstrom
    shells = np.arange(len(found.true))
    table = pd.DataFrame(
        {
            "rlnSpectralIndex": shells,
            "rlnResolution": shells / extent,
            "rlnFourierShellCorrelationCorrected": found.true.numpy(),
            "rlnFourierShellCorrelationMaskedMaps": found.curves.masked.numpy(),
            "emflowFourierShellCorrelationControlMasked": found.control.masked.numpy(),
            "emflowFourierShellCorrelationControlUnmasked": found.control.unmasked.numpy(),
        }
    )
    return Finding(
        judgements=[judge_control(found)],
        metrics={
            "noise_control_from_angstrom": extent / found.from_shell,
            "noise_control_correlation": left[0] if left else None,
            "noise_control_correlation_deviation": left[1] if left else None,
            "resolution_angstrom": found.resolution_angstrom,
        },
        figures={"noise_control": draw_control(found)},
        details={"curves": {name: curve.tolist() for name, curve in lists.items()}},
        tables={"fsc": {"fsc": table}},
    )


@styled
def draw_control(found: Control) -> Figure:
    """Draw the FSC of the particles, of the control, and what is left."""
    fig = figure(6.6, 3.5)
    ax = fig.add_subplot()
    extent = found.curves.box * found.curves.voxel_size_angstrom
    x = torch.arange(len(found.true)) / extent
    ax.plot(x, found.curves.masked, color=BLUE, lw=1.1, label="particles, masked")
    ax.plot(x, found.control.masked, color=ORANGE, lw=1.1, label="control, masked")
    ax.plot(x, found.control.unmasked, color=RED, lw=1.1, ls="--", label="control, unmasked")
    ax.plot(x, found.true, color=INK, lw=2, label="corrected by the control")
    ax.axhline(THRESHOLD, color=INK, lw=0.6, ls=":")
    ax.axvline(found.from_shell / extent, color=GREEN, lw=1)
    ax.annotate("noise from here", (found.from_shell / extent, 0.97), xytext=(5, 0), textcoords="offset points", va="top",
                color=GREEN, fontsize=8)  # fmt: skip
    ax.set_ylim(-0.15, 1.02)
    resolution_axis(ax, float(x[-1]))
    ax.set_ylabel("Fourier shell correlation")
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return fig

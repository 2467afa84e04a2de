"""Refinement of the CTF at fixed poses: beam tilt, astigmatism, defocus and contrast of every particle.

Each half is fitted against its own half map. Nothing is changed unless it is borne out by data that it was not
found from: the tilt of one half by the images of the other, the defocus by the other half of a particle's
Fourier pixels, the astigmatism and the envelope by the other half of a micrograph's particles.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor

from emflow.em.images import ImageSet
from emflow.reconstruct.astigmatism import AstigmatismFit, fit_astigmatism
from emflow.reconstruct.beam_tilt import PhaseSums, TiltFit, fit_tilt, held_out_gain, sum_phases
from emflow.reconstruct.config import ReconstructCtf
from emflow.reconstruct.ctf_match import Changes, Matcher, Views, filter_halves, geometry_of
from emflow.reconstruct.defocus_grid import Curves, Grid, at, evaluate
from emflow.reconstruct.defocus_prior import (
    Contrasts,
    Population,
    fit_contrasts,
    fit_population,
    marginal,
)
from emflow.reconstruct.envelope import Envelopes, fit_envelopes

log = logging.getLogger("emflow")

CONVINCING = 3.0
"""Standard errors above nothing that a gain in data not fitted must reach."""
LEAST_CONTRAST = 0.1
"""Of the images, where their reference has 1: below this they do not show it."""


@dataclass(frozen=True)
class Gain:
    """Log-likelihood gained in data that was not fitted, a particle."""

    mean: float
    error: float

    @staticmethod
    def of(values: Tensor, particles: int | None = None) -> Gain:
        """Mean over independent values; of sums over several particles, ``particles`` is how many in all."""
        share = 1.0 if particles is None else len(values) / max(particles, 1)
        spread = float(values.std()) if len(values) > 1 else float("inf")
        return Gain(float(values.mean()) * share, spread / max(len(values), 1) ** 0.5 * share)

    @property
    def convincing(self) -> bool:
        """Whether it is above nothing beyond doubt."""
        return self.mean > CONVINCING * self.error


@dataclass(frozen=True)
class Tilt:
    """Beam tilt of one optics group."""

    group: int
    halves: tuple[TiltFit, TiltFit]
    gains: tuple[Gain, Gain]
    """What half 1's gains in half 2's images, and the other way round; of all of them together."""
    sums: PhaseSums
    """Of both halves, before this fit: for the picture."""

    @property
    def applied(self) -> bool:
        """Whether the other half bears it out both ways."""
        shown = min(half.contrast for half in self.halves) > LEAST_CONTRAST
        return shown and all(gain.convincing for gain in self.gains)

    @property
    def mean_mrad(self) -> Tensor:
        """Mean of the halves', (2,)."""
        return 0.5 * (self.halves[0].tilt_mrad + self.halves[1].tilt_mrad)

    @property
    def difference_mrad(self) -> float:
        """Length of the difference between the halves'."""
        return float((self.halves[0].tilt_mrad - self.halves[1].tilt_mrad).norm())


@dataclass
class CtfFit:
    """What was found."""

    changes: Changes
    """What is applied."""
    offset: Tensor
    """Posterior mean of each particle's defocus offset, applied or not, (N,), Å."""
    deviation: Tensor
    """(N,), Å."""
    contrast: Tensor
    """(N,), 1 on average in each half."""
    level: str = "none"
    """What of the defocus is applied: particle, micrograph or none."""
    gain: Gain = field(default_factory=lambda: Gain(0.0, float("inf")))
    """Of what is applied, over the table's defocus."""
    gain_micrograph: Gain = field(default_factory=lambda: Gain(0.0, float("inf")))
    gain_beyond: Gain = field(default_factory=lambda: Gain(0.0, float("inf")))
    """Of a defocus for each particle over one for each micrograph."""
    gain_astigmatism: Gain | None = None
    tilts: list[Tilt] = field(default_factory=list)
    final_tilts: list[Tilt] = field(default_factory=list)
    """What is left of the tilt with all else applied; added to it."""
    populations: list[Population] = field(default_factory=list)
    contrasts: list[Contrasts] = field(default_factory=list)
    astigmatisms: list[AstigmatismFit] = field(default_factory=list)
    envelopes: list[Envelopes] = field(default_factory=list)
    """Of each half's micrographs."""
    gain_envelope: Gain | None = None
    log_scale: Tensor | None = None
    """Of each particle's micrograph, (N,), where envelopes are applied."""
    b_factor_angstrom2: Tensor | None = None
    at_edge: float = 0.0
    """Fraction of particles whose likeliest offset is the search's first or last."""

    @property
    def seen(self) -> bool:
        """Whether the images of both halves show their reference at all; without, contrasts mean nothing."""
        return min(contrasts.common for contrasts in self.contrasts) > LEAST_CONTRAST

    @property
    def changed(self) -> bool:
        """Whether anything of the table's CTF was."""
        parts = (self.changes.defocus_angstrom, self.changes.astigmatism_angstrom, self.changes.tilt_mrad)
        return self.log_scale is not None or any(bool(part.any()) for part in parts)


def make_matcher(
    images: ImageSet,
    views: Views,
    halves: tuple[Tensor, Tensor],
    diameter_angstrom: float,
    cfg: ReconstructCtf,
) -> Matcher:
    """Make each half's reference from its raw half map, and get ready to match its images."""
    raw = (halves[0].to(images.device), halves[1].to(images.device))
    references, weight, filled = filter_halves(raw, images.pixel_size_angstrom, diameter_angstrom)
    geometry = geometry_of(images, len(weight) - 1, cfg.lowest_resolution_angstrom)
    matcher = Matcher(images, views, geometry)
    for number in (1, 2):
        matcher.prepare(number, references[number - 1], weight, filled[number - 1], cfg.symmetry)
    return matcher


class CtfRefinement:
    """The steps, each over the images of both halves."""

    def __init__(self, matcher: Matcher, place: Tensor, cfg: ReconstructCtf) -> None:
        """Take prepared references, and the particles' places on their micrographs (N, 2), see ``fit_population``."""
        self.matcher, self.place, self.cfg = matcher, place, cfg
        self.views, self.geometry = matcher.views, matcher.geometry
        voltage = max(ctf.voltage_kv for ctf in self.views.ctf)
        self.grid = Grid.build(self.geometry, voltage, cfg.search_range_angstrom)
        count = len(self.views.micrograph)
        self.rows = [matcher.images.rows(half) for half in (1, 2)]
        self.fit = CtfFit(
            Changes.none(count, len(self.views.ctf)),
            torch.zeros(count),
            torch.zeros(count),
            torch.ones(count),
        )

    def run(self) -> CtfFit:
        """Fit everything that is asked for."""
        fit, cfg = self.fit, self.cfg
        if cfg.beam_tilt:
            fit.tilts = self._tilt()
        curves = [self._curves(half) for half in (1, 2)]
        self._populations(curves)
        if cfg.astigmatism != "none" and self._astigmatism():
            curves = [self._curves(half) for half in (1, 2)]
            self._populations(curves)
        self._judge_defocus(curves)
        if cfg.beam_tilt and any(tilt.applied for tilt in fit.tilts):
            fit.final_tilts = self._tilt()
        if cfg.envelope and fit.seen:
            self._envelopes()
        return fit

    def _tilt(self) -> list[Tilt]:
        """Fit the tilt of each optics group in each half; apply the mean where each half bears out the other's."""
        changes = self.fit.changes
        sums = [sum_phases(self.matcher, half, changes) for half in (1, 2)]
        found = []
        for group, optics in enumerate(self.views.ctf):
            both = (sums[0][group], sums[1][group])
            if optics.cs_mm == 0 or min(float(each.power.sum()) for each in both) == 0:
                continue
            first, second = (fit_tilt(each, self.geometry, optics) for each in both)
            gains = (
                Gain(*held_out_gain(first, both[1], self.geometry, optics)),
                Gain(*held_out_gain(second, both[0], self.geometry, optics)),
            )
            whole = PhaseSums(both[0].product + both[1].product, both[0].power + both[1].power)
            tilt = Tilt(group, (first, second), gains, whole)
            found.append(tilt)
            if tilt.applied or any(known.group == group and known.applied for known in self.fit.tilts):
                changes.tilt_mrad[group] += tilt.mean_mrad.float()
                changes.shift_px[group] += (0.5 * (first.shift_px + second.shift_px)).float()
            log.info(
                "optics group %d: beam tilt changes by %.3f, %.3f mrad (halves differ by %.3f mrad)",
                group + 1, *tilt.mean_mrad.tolist(), tilt.difference_mrad,
            )  # fmt: skip
        return found

    def _curves(self, half: int) -> Curves:
        """Likelihoods of a half's particles over the grid, in the order of its rows, about the table's defocus."""
        rows = self.rows[half - 1]
        curves = Curves.empty(len(rows), self.grid)
        position = torch.full((len(self.views.micrograph),), -1)
        position[rows] = torch.arange(len(rows))
        fixed = Changes(**{**vars(self.fit.changes), "defocus_angstrom": torch.zeros(len(position))})
        for group, part in self.matcher.chunks(half):
            match = self.matcher.match(half, group, part, fixed)
            found = evaluate(match, self.grid, self.views.ctf[group].voltage_kv)
            curves.overlap[position[part]] = found.overlap.cpu()
            curves.energy[position[part]] = found.energy.cpu()
        return curves

    def _populations(self, curves: list[Curves]) -> None:
        """Offsets and contrasts of both halves' particles, each half by itself."""
        fit = self.fit
        fit.populations, fit.contrasts = [], []
        offsets = self.grid.offset_angstrom.cpu()
        edge = 0
        for rows, own in zip(self.rows, curves, strict=True):
            _, micrograph = self.views.micrograph[rows].unique(return_inverse=True)
            overlap, energy = own.overlap.sum(1), own.energy.sum(1)
            guess = torch.zeros(len(rows))
            for _ in range(2):
                contrasts = fit_contrasts(
                    at(overlap, self.grid, guess), at(energy, self.grid, guess), micrograph
                )
                likelihood = marginal(overlap, energy, contrasts.centre, contrasts.spread)
                population = fit_population(likelihood, offsets, micrograph, self.place[rows])
                guess = population.mean.float()
            contrasts = fit_contrasts(at(overlap, self.grid, guess), at(energy, self.grid, guess), micrograph)
            fit.populations.append(population)
            fit.contrasts.append(contrasts)
            fit.offset[rows], fit.deviation[rows] = guess, population.deviation.float()
            if contrasts.common > LEAST_CONTRAST:
                fit.contrast[rows] = (contrasts.mean / contrasts.mean.mean()).float()
            best = likelihood.argmax(1)
            edge += int(((best == 0) | (best == len(offsets) - 1)).sum())
        fit.at_edge = edge / max(1, sum(map(len, self.rows)))

    def _astigmatism(self) -> bool:
        """Fit the astigmatism at the particles' offsets; whether it is applied."""
        fit, views = self.fit, self.views
        if not fit.seen:
            return False
        unit = self.matcher.images.group
        if self.cfg.astigmatism == "micrograph":
            pairs = views.micrograph * len(views.ctf) + unit
            unit = pairs.unique(return_inverse=True)[1]
        known = Changes(**{**vars(fit.changes), "defocus_angstrom": fit.offset})
        found = [
            fit_astigmatism(self.matcher, half, known, unit, fit.contrasts[half - 1].common)
            for half in (1, 2)
        ]
        gains = [each.gain[unit[rows].unique()] for each, rows in zip(found, self.rows, strict=True)]
        fit.astigmatisms = found
        fit.gain_astigmatism = Gain.of(torch.cat(gains), len(unit))
        if not fit.gain_astigmatism.convincing:
            return False
        for each, rows in zip(found, self.rows, strict=True):
            fit.changes.astigmatism_angstrom[rows] = each.change[unit[rows]].float()
        return True

    def _envelopes(self) -> None:
        """Fit the envelopes of each half's micrographs; applied where other particles bear them out."""
        fit, micrograph = self.fit, self.views.micrograph
        fit.envelopes = [fit_envelopes(self.matcher, half, fit.changes) for half in (1, 2)]
        gains = torch.cat([each.gain[each.seen] for each in fit.envelopes])
        fit.gain_envelope = Gain.of(gains, len(micrograph))
        if not fit.gain_envelope.convincing:
            return
        fit.log_scale, fit.b_factor_angstrom2 = (torch.zeros(len(micrograph)) for _ in range(2))
        for each, rows in zip(fit.envelopes, self.rows, strict=True):
            fit.log_scale[rows] = each.log_scale[micrograph[rows]].float()
            fit.b_factor_angstrom2[rows] = each.b_factor_angstrom2[micrograph[rows]].float()

    def _judge_defocus(self, curves: list[Curves]) -> None:
        """Ask the odd pixels about what the even ones say, and the other way round; apply what is borne out."""
        fit, offsets = self.fit, self.grid.offset_angstrom.cpu()
        own, shared, by_micrograph = [], [], []
        for rows, half, contrasts in zip(self.rows, curves, fit.contrasts, strict=True):
            _, micrograph = self.views.micrograph[rows].unique(return_inverse=True)
            level = contrasts.centre.float()[:, None]
            parts = [2 * level * half.overlap[:, k] - level**2 * half.energy[:, k] for k in (0, 1)]
            beyond, expected = torch.zeros(len(rows)), torch.zeros(len(rows))
            for train, test in ((0, 1), (1, 0)):
                told = fit_population(parts[train], offsets, micrograph, self.place[rows])
                here, nothing = parts[test], torch.zeros(len(rows))
                micro = at(here, self.grid, told.expected.float())
                beyond += at(here, self.grid, told.mean.float()) - micro
                expected += micro - at(here, self.grid, nothing)
            own.append(beyond)
            shared.append(expected)
            by_micrograph.append(torch.zeros(int(micrograph.max()) + 1).index_add_(0, micrograph, expected))
        fit.gain_beyond = Gain.of(torch.cat(own))
        fit.gain_micrograph = Gain.of(torch.cat(by_micrograph), sum(map(len, self.rows)))
        if not fit.seen:
            fit.contrast.fill_(1.0)
            return
        if self.cfg.defocus == "particle" and fit.gain_beyond.convincing:
            fit.level, fit.gain = "particle", Gain.of(torch.cat(own) + torch.cat(shared))
            fit.changes.defocus_angstrom = fit.offset.clone()
        elif self.cfg.defocus != "none" and fit.gain_micrograph.convincing:
            fit.level, fit.gain = "micrograph", fit.gain_micrograph
            for rows, population in zip(self.rows, fit.populations, strict=True):
                fit.changes.defocus_angstrom[rows] = population.expected.float()

"""3D classification of one half-set: from poses, or from a start map alone, to classes.

1. Poses: given ones, or a global search against the start map and then against the half-set's own mean map.
2. Several random starts at low resolution and fixed poses, annealed: the likelihood counts to a power that grows to
   1, so that classes part one after the other, along the largest differences first. The start whose held-out
   likelihood is highest goes on.
3. Finer bands, as far as the mean map's FSC between folds reaches.
4. Poses against the maps of all classes, and the bands again; as often as asked for.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.images import noise_spectra
from emflow.em.poses import quaternion_to_matrix
from emflow.em.slices import volume_spectrum
from emflow.reconstruct.class_em import (
    Expected,
    class_maps,
    class_sums,
    expect_classes,
    likeliest,
    mean_of,
    prior_of,
    with_noise_left,
)
from emflow.reconstruct.class_images import Posed, Specimen, Weighted
from emflow.reconstruct.class_poses import FIRST_BAND_DIAMETERS, PoseSearch
from emflow.reconstruct.config import ReconstructClasses

log = logging.getLogger("emflow")

FOLDS = 4
"""A particle is compared with maps of three quarters of its half-set: those of the other folds."""
DIFFERENCES = (0.2, 0.05)
"""Power by which classes differ, over the mean map's: the starts take these in turn."""
FRACTIONS = (0.02, 0.06, 0.2, 0.6, 2.0, 6.0)
"""From among these it is chosen afterwards, by the held-out likelihood."""
FIRST_POWER = 0.1
"""Power of the likelihood at which annealing begins."""
ANNEALED = 0.6
"""Share of a start's iterations after which the likelihood counts in full."""
FINEST_DIAMETERS = 16.0
"""Unless told otherwise, detail down to the diameter over this is compared (times the root of the symmetry's order)."""
BAND_ITERATIONS = 10
"""Iterations at most of a finer band."""
_CONTRAST = 256  # images by which a start map's contrast is set
SETTLED = 0.005
"""A band is left when fewer particles than this share change their class."""


@dataclass(frozen=True)
class Found:
    """Classes of a half-set."""

    posed: Posed
    posterior: Tensor
    """Of classes and candidate poses, (n, K, O)."""
    fraction: float
    """The power by which classes were taken to differ."""
    band: float
    """Highest frequency index compared."""
    evidence: list[float]
    """Held-out log-likelihood per particle of each start, over that of a single class."""


class HalfClasses:
    """The search in one half-set."""

    def __init__(self, specimen: Specimen, half: int, cfg: ReconstructClasses) -> None:
        """Prepare what does not change."""
        self.specimen, self.images, self.half, self.cfg = specimen, specimen.images, half, cfg
        self.search = PoseSearch(specimen, cfg.relax_symmetry, cfg.shift_fraction)
        widest = self.images.box / 2 - 1
        extent = self.images.box * self.images.pixel_size_angstrom
        finest = cfg.resolution_angstrom
        reach = (
            FINEST_DIAMETERS * self.search.first_band / FIRST_BAND_DIAMETERS
            if finest is None
            else extent / finest
        )
        self.widest = min(widest, reach)
        self.first_band = min(self.search.first_band, self.widest)

    def begin(self, poses: tuple[Tensor, Tensor] | None, start: Tensor | None) -> Posed:
        """The half-set with poses: given ones of all images, (N, 3, 3) and (N, 2), or by a start map (n, n, n)."""
        rows = self.images.rows(self.half)
        full = self.images.plane(self.images.box / 2)
        random = generator(self.cfg.seed, 60, self.half)
        fold = torch.randperm(len(rows), generator=random) % FOLDS
        nothing = torch.eye(3).expand(len(rows), 3, 3), torch.zeros(len(rows), 2)
        given, moved = nothing if poses is None else (poses[0][rows], poses[1][rows])
        noise = noise_spectra(self.images, rows, full)
        posed = Posed(rows, self.search.candidates(given), moved, noise, fold, FOLDS)
        even = torch.ones(1, dtype=torch.float64)
        if start is None:
            return self.measured(posed, self.first_band)[0]
        maps = self.with_contrast(start.to(self.images.device), posed)[None, None]
        band = self.first_band
        for number in range(2):
            posed = self.search.find(posed, maps, even, band, random)
            posed, maps, band = self.measured(posed, 1.5 * self.first_band)
            log.info("half %d: poses against the mean map, pass %d, band %.1f", self.half, number + 1, band)
        return self.measured(self.search.find(posed, maps, even, band, None), self.first_band)[0]

    def with_contrast(self, start: Tensor, posed: Posed) -> Tensor:
        """A start map within the particle's sphere, in the images' units.

        Its contrast is set by power: what the images have at low frequency beyond the noise at their highest.
        Later maps are made of the images themselves.
        """
        volume = start * self.specimen.sphere(self.images.box)
        plane = self.images.plane(self.first_band)
        some = posed.rows[:: max(1, len(posed) // _CONTRAST)]
        turns = torch.randn(len(some), 4, generator=generator(self.cfg.seed, 63))
        views = quaternion_to_matrix(turns / turns.norm(dim=1, keepdim=True)).to(plane.kx)
        slices = volume_spectrum(volume, self.first_band).slices(views, plane)
        _, ctf = self.images.transforms(some, plane)
        predicted = (slices * ctf[:, None]).square().sum(1)[:, plane.shell > 0].sum(1).mean()
        spectrum = posed.noise[self.images.group[some].to(posed.noise.device)].mean(0)
        floor = spectrum[-max(1, len(spectrum) // 4) :].mean()
        signal = (spectrum[plane.shell] - floor)[plane.shell > 0].sum().clamp(min=0)
        return volume * torch.sqrt(signal / predicted.clamp(min=1e-30))

    def measured(self, posed: Posed, band: float) -> tuple[Posed, Tensor, float]:
        """Noise by the mean map of all classes; that map for each fold, (J, 1, b, b, b), and its band."""
        band = min(band, self.widest)
        weighted = Weighted(self.images, posed, band)
        options = posed.rotations.shape[1]
        single = torch.full((len(posed), 1, options), 1 / options)
        mean = mean_of(self.specimen, weighted)
        maps = class_maps(self.specimen, mean, class_sums(self.specimen, weighted, single), 1.0)
        reached = min(band, max(mean.last_shell + 2.0, 0.6 * self.first_band))
        return with_noise_left(self.specimen, posed, maps, single, band), maps, reached

    def run(self, posed: Posed) -> Found:
        """Classes at the poses, then poses by the classes, and so on."""
        found = self.likeliest_start(posed)
        found = self.march(found)
        rounds = 0 if self.cfg.poses == "fixed" else self.cfg.pose_rounds
        for number in range(rounds):
            everywhere = self.cfg.poses == "global" and number == 0
            found = self.march(self.with_new_poses(found, everywhere))
        return found

    def likeliest_start(self, posed: Posed) -> Found:
        """The best of all random starts, annealed."""
        weighted = Weighted(self.images, posed, self.first_band)
        options = posed.rotations.shape[1]
        alone = self.iterate(weighted, torch.full((len(posed), 1, options), 1 / options), 1.0, [1.0])
        best: tuple[float, Tensor, float] | None = None
        evidence = []
        for number in range(self.cfg.n_starts):
            random = generator(self.cfg.seed, 61, self.half, number)
            drawn = torch.rand(len(posed), self.cfg.n_classes, options, generator=random).flatten(1)
            posterior = torch.zeros_like(drawn).scatter_(1, drawn.argmax(1, keepdim=True), 1.0)
            fraction = DIFFERENCES[number % len(DIFFERENCES)]
            steps = max(1, round(ANNEALED * self.cfg.n_iterations))
            powers = [FIRST_POWER ** (1 - i / steps) for i in range(steps)]
            powers += [1.0] * max(1, self.cfg.n_iterations - steps)
            begun = posterior.view(len(posed), -1, options)
            expected = self.iterate(weighted, begun, fraction, powers, parted=False)
            gain = float((expected.evidence - alone.evidence).mean())
            evidence.append(gain)
            log.info(
                "half %d, start %d of %d: %.2f above a single class; fractions %s",
                self.half, number + 1, self.cfg.n_starts, gain, _fractions(expected.posterior),
            )  # fmt: skip
            if best is None or gain > best[0]:
                best = (gain, expected.posterior, fraction)
        assert best is not None
        return Found(posed, best[1], best[2], self.first_band, evidence)

    def iterate(
        self, weighted: Weighted, posterior: Tensor, fraction: float, powers: list[float], parted: bool = True
    ) -> Expected:
        """Maps by posteriors, posteriors by maps, once for each power of the likelihood.

        ``parted`` as in :func:`~emflow.reconstruct.class_em.class_maps`.
        """
        band = float(weighted.plane.radius[-1])
        mean = mean_of(self.specimen, weighted)
        expected = Expected(posterior, torch.zeros(len(posterior), dtype=torch.float64))
        for power in powers:
            before = likeliest(expected.posterior)[0]
            sums = class_sums(self.specimen, weighted, expected.posterior)
            maps = class_maps(self.specimen, mean, sums, fraction, parted)
            expected = expect_classes(weighted, maps, prior_of(expected.posterior), band, power)
            changed = (likeliest(expected.posterior)[0] != before).float().mean()
            if power == 1.0 and float(changed) < SETTLED:
                break
        return expected

    def march(self, found: Found) -> Found:
        """Finer bands, each until the classes settle, as far as the mean map's signal reaches."""
        band = found.band
        posterior = found.posterior
        while True:
            weighted = Weighted(self.images, found.posed, band)
            fraction = self.likeliest_fraction(weighted, posterior)
            posterior = self.iterate(weighted, posterior, fraction, [1.0] * BAND_ITERATIONS).posterior
            reached = mean_of(self.specimen, weighted).last_shell + 2.0
            finer = min(self.widest, 1.4 * band, max(reached, band))
            if finer < band + 0.5:
                break
            band = finer
        log.info(
            "half %d: band %.1f, classes differ by %.2f, fractions %s",
            self.half, band, fraction, _fractions(posterior),
        )  # fmt: skip
        return replace(found, posterior=posterior, fraction=fraction, band=band)

    def likeliest_fraction(self, weighted: Weighted, posterior: Tensor) -> float:
        """The power by which classes differ under which the particles are likeliest, each by the other folds' maps."""
        band = float(weighted.plane.radius[-1])
        mean = mean_of(self.specimen, weighted)
        sums = class_sums(self.specimen, weighted, posterior)
        prior = prior_of(posterior)
        evidence = []
        for fraction in FRACTIONS:
            maps = class_maps(self.specimen, mean, sums, fraction)
            evidence.append(float(expect_classes(weighted, maps, prior, band).evidence.mean()))
        return FRACTIONS[max(range(len(evidence)), key=evidence.__getitem__)]

    def with_new_poses(self, found: Found, everywhere: bool) -> Found:
        """Poses against all classes' maps, and the noise that these leave."""
        weighted = Weighted(self.images, found.posed, found.band)
        mean = mean_of(self.specimen, weighted)
        sums = class_sums(self.specimen, weighted, found.posterior)
        maps = class_maps(self.specimen, mean, sums, found.fraction)
        prior = prior_of(found.posterior)
        random = generator(self.cfg.seed, 62, self.half) if everywhere else None
        posed = self.search.find(found.posed, maps, prior, found.band, random)
        posed = with_noise_left(self.specimen, posed, maps, found.posterior, found.band)
        band = max(self.first_band, found.band / 1.4)
        return replace(found, posed=posed, band=band)


def _fractions(posterior: Tensor) -> str:
    share = posterior.sum(2).mean(0).sort(descending=True).values
    return ", ".join(f"{value:.2f}" for value in share.tolist())

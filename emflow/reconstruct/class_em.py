"""Classes by expectation-maximisation at fixed poses.

A pass slices every class' map once at each particle's pose (or at each of its candidate poses). Both terms of the
log-likelihood (:mod:`emflow.em.search`) are products with the particle's own image; the posterior over classes and
candidates weighs the particle in the sums of the next maps (Scheres, J. Struct. Biol. 180, 519, 2012, eqs. 3 to 5).

Two things differ from that scheme. A particle is compared with maps that the other folds of its half-set made: its
own noise, which a small class' map would repeat, does not hold it where it is. And a class is drawn towards the mean
of all classes instead of towards nothing: the prior of a Fourier component of class k is Gaussian about the mean
map's, with a fraction f of the mean map's power, so that class k is (N_k + R·M)/(D_k + R), R = 1/(f·τ²). A class
with few particles becomes the mean map and costs nothing; on particles that are all alike the classes never part.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as functional
from torch import Tensor

from emflow.em.batches import in_batches
from emflow.em.images import shell_means, spread
from emflow.em.masks import lowpass, solvent_mask
from emflow.em.search import WeightedImages
from emflow.em.slices import HalfPlane, Spectrum, complex_product, volume_spectrum
from emflow.em.wiener import Accumulator, fsc_to_ssnr, shell_mean
from emflow.reconstruct.class_images import Posed, Specimen, Weighted

NEGLIGIBLE = 1e-3
"""Posterior weights below this add nothing to a class' sums."""
ENVELOPE_DIAMETERS = 8.0
"""The envelope is made from the mean map low-passed to the diameter over this at least, and grown by half of that."""
LOCAL_DIAMETERS = 5.0
"""Whether folds agree on a difference is asked around each voxel, low-passed to the diameter over this."""
Sums = list[list[Accumulator]]
"""Of each class, for each fold."""


def add_up(parts: list[Accumulator]) -> Accumulator:
    """Sums of several sets of images."""
    whole = copy.copy(parts[0])
    whole.sums = (
        torch.stack([part.sums for part in parts]).sum(0) if len(parts) > 1 else parts[0].sums.clone()
    )
    return whole


def class_sums(specimen: Specimen, images: Weighted, posterior: Tensor) -> Sums:
    """Sums of each class and fold, to the band of ``images``; posterior (n, K, O)."""
    plane, posed = images.plane, images.posed
    band = float(plane.radius[-1])
    device = plane.kx.device
    sums = [
        [Accumulator(specimen.box(band), band, 2, specimen.symmetry, device) for _ in range(posed.folds)]
        for _ in range(posterior.shape[1])
    ]
    for fold, place, batch in images.batches():
        rotations, weight = posed.rotations[place].to(device), posterior[place].to(device)
        for k, of_class in enumerate(sums):
            _insert(of_class[fold], batch, rotations, weight[:, k], plane)
    return sums


def _insert(
    sums: Accumulator, images: WeightedImages, rotations: Tensor, weight: Tensor, plane: HalfPlane
) -> None:
    """Add images (B) at their candidates' poses (B, O, 3, 3), weighted (B, O)."""
    image, option = torch.nonzero(weight > NEGLIGIBLE, as_tuple=True)
    if len(image):
        w = weight[image, option]
        numerator = images.data[image] * w[:, None, None]
        sums.add(numerator, images.power[image] * w[:, None], rotations[image, option], plane)


@dataclass(frozen=True)
class Mean:
    """All classes together, at fixed poses: what a class is drawn towards, and how strongly."""

    grids: list[tuple[Tensor, Tensor]]
    """For each fold, of the particles of all others: Wiener-filtered Fourier grid, and its denominator."""
    inverse_power: Tensor
    """1/τ² on the grid, in units of the half-set's denominator: that of the mean map's signal."""
    curve: Tensor
    """FSC of two halves of the folds within the particle's sphere, (S,)."""
    envelope: Tensor
    """Soft solvent mask of the mean map, wide enough for what only some classes have; the sphere where none is found."""

    @property
    def last_shell(self) -> int:
        """Last shell before that FSC first falls below 0.143."""
        below = torch.nonzero(self.curve[1:] < 0.143)
        return int(below[0]) if len(below) else len(self.curve) - 1


def mean_of(specimen: Specimen, images: Weighted) -> Mean:
    """The mean of all classes; where a particle has several candidate poses, all count alike."""
    options = images.posed.rotations.shape[1]
    even = torch.full((len(images.posed), 1, options), 1 / options)
    folds = class_sums(specimen, images, even)[0]
    sphere = specimen.sphere(folds[0].box)
    curve = fold_fsc(add_up(folds[0::2]), add_up(folds[1::2]), float(sphere.square().mean()))
    radius = folds[0].radius()
    shell = torch.floor(radius + 0.5).long()
    count = int(shell.max()) + 1
    below = torch.nonzero(curve[1:] < 0.143)
    cut = curve.clone()
    cut[(int(below[0]) if len(below) else len(curve)) + 3 :] = 0
    ssnr = functional.pad(2 * fsc_to_ssnr(cut), (0, max(0, count - len(cut))))[:count].clamp(min=1e-6)
    whole = add_up(folds)
    inverse = (shell_mean(whole.merged()[1], shell, count) / ssnr)[shell]
    grids = []
    for own in folds:
        rest = copy.copy(whole)
        rest.sums = whole.sums - own.sums
        numerator, denominator = rest.merged()
        # nothing is measured at zero frequency
        grids.append((numerator / (denominator + inverse).clamp(min=1e-30), denominator))
    numerator, denominator = whole.merged()
    mean = Mean(grids, inverse, curve, sphere)
    if not specimen.solvent_mask:
        return mean
    volume = _solve(whole, numerator, denominator + inverse) * sphere
    return replace(mean, envelope=_envelope(specimen, volume, sphere, mean.last_shell))


def _envelope(specimen: Specimen, volume: Tensor, sphere: Tensor, last_shell: int) -> Tensor:
    """Where there is particle in a mean map, within its sphere; made from it low-passed a little below its resolution."""
    images = specimen.images
    extent = images.pixel_size_angstrom * images.box
    widest = specimen.diameter_px * images.pixel_size_angstrom / ENVELOPE_DIAMETERS
    smooth = min(widest, max(12.0, 1.5 * extent / max(1, last_shell)))
    found = solvent_mask(
        volume,
        extent / volume.shape[-1],
        lowpass_angstrom=smooth,
        dilate_angstrom=smooth / 2,
        edge_angstrom=smooth / 2,
    )
    return found.mask * sphere if found.found else sphere


def fold_fsc(first: Accumulator, second: Accumulator, filling: float) -> Tensor:
    """FSC of the raw maps of two sums, (S,), carried over to the part of the box that is particle.

    On the Fourier grid, without a transform: the box holds all of the signal and 1/filling times the particle's
    noise, so F becomes F/(F + filling·(1 − F)).
    """
    shell = torch.floor(first.radius() + 0.5).long()
    count = int(shell.max()) + 1
    spectra = []
    for sums in (first, second):
        numerator, denominator = sums.merged()
        floor = torch.maximum(denominator, 0.05 * shell_mean(denominator, shell, count)[shell])
        spectra.append(torch.where(floor > 0, numerator / floor.clamp(min=1e-30), 0.0))
    values = (spectra[0] * spectra[1].conj()).real, spectra[0].abs().square(), spectra[1].abs().square()
    cross, a, b = (
        shell_mean(value, shell, count)[: first.reach // first.padding].double() for value in values
    )
    curve = cross / (a * b).sqrt().clamp(min=1e-300)
    return torch.where(curve > 0, curve / (curve + filling * (1 - curve)), curve).float()


def class_maps(specimen: Specimen, mean: Mean, sums: Sums, fraction: float, parted: bool = True) -> Tensor:
    """Regularised maps (J, K, b, b, b): for the particles of fold j, from those of all other folds.

    Parameters
    ----------
    specimen
        Where it has a mask, classes keep their own map inside of it and the mean outside.
    mean
        Of all classes.
    sums
        Of each class and fold.
    fraction
        f, the power by which classes differ over the mean map's.
    parted
        Keep differences only where folds agree on them; not while classes are still looked for.
    """
    like = sums[0][0]
    pull = mean.inverse_power / fraction
    shared = torch.stack(
        [_solve(like, grid, torch.ones_like(denominator)) for grid, denominator in mean.grids]
    )
    maps = torch.empty(len(shared), len(sums), *shared.shape[1:], device=shared.device)
    together, apart = torch.zeros_like(shared), torch.zeros_like(shared)
    local = parted and len(sums) > 1
    for k, folds in enumerate(sums):
        whole = add_up(folds)
        for j, (grid, _) in enumerate(mean.grids):
            rest = copy.copy(whole)
            rest.sums = whole.sums - folds[j].sums
            own, weight = rest.merged()
            maps[j, k] = _solve(like, own + pull * grid, weight + pull)
        if local:
            differences = torch.empty_like(shared)
            for j, (grid, _) in enumerate(mean.grids):
                own, weight = folds[j].merged()
                differences[j] = _solve(like, own + pull * grid, weight + pull) - shared[j]
            differences *= mean.envelope
            together += (differences.sum(0) - differences).square()
            squares = differences.square()
            apart += squares.sum(0) - squares
    focus = specimen.focus(like.box)
    if local:
        voxel_diameters = specimen.images.box / like.box / specimen.diameter_px
        keep = agreed_share(together, apart, voxel_diameters)
        keep = keep if focus is None else keep * focus
        maps = shared[:, None] + keep[:, None] * (maps - shared[:, None])
    elif focus is not None:
        maps = shared[:, None] + focus * (maps - shared[:, None])
    return maps * mean.envelope


def agreed_share(together: Tensor, apart: Tensor, voxel_diameters: float) -> Tensor:
    """Of the power of class differences around each voxel, the share that is no noise (a Wiener weight), 0 to 1.

    Parameters
    ----------
    together
        For each fold j, the square of the sum of all other folds' differences from the mean, summed over classes,
        (J, b, b, b): signal and noise.
    apart
        The sum of their squares. What is left of ``together`` without it are products of different folds: signal.
    voxel_diameters
        Size of a voxel in particle diameters.
    """
    count = len(together) - 1
    around = lowpass(torch.stack((together, together - apart)), voxel_diameters, 1 / LOCAL_DIAMETERS)
    power, product = around[0] / count**2, around[1] / (count * (count - 1))
    return torch.where(power > 0, product / power.clamp(min=1e-30), 0.0).clamp(0, 1)


def _solve(like: Accumulator, numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide grids that are symmetrised already, and return to real space."""
    sums = Accumulator(like.box, (like.reach - 1) / like.padding, like.padding, "C1", denominator.device)
    parts = (numerator.real, numerator.imag, denominator)
    sums.sums = torch.stack([part.reshape(-1) for part in parts]) / 2
    return sums.solve()


@dataclass(frozen=True)
class Expected:
    """Posteriors of a pass."""

    posterior: Tensor
    """Of classes and candidates, (n, K, O), on the CPU."""
    evidence: Tensor
    """Log-likelihood of each particle over all classes, (n,), float64, on the CPU."""


def prior_of(posterior: Tensor) -> Tensor:
    """Fractions of the classes, (K,), float64, from posteriors (n, K, O); none is nothing: a class may come back."""
    counts = posterior.double().sum((0, 2)) + 0.1
    return counts / counts.sum()


def expect_classes(
    images: Weighted, maps: Tensor, prior: Tensor, band: float, power: float = 1.0
) -> Expected:
    """Posteriors of classes and candidate poses.

    Parameters
    ----------
    images
        Of a half-set, at fixed poses.
    maps
        (J, K, b, b, b), from :func:`class_maps`; one fold's (1, K, b, b, b) for all particles.
    prior
        Fractions of the classes, (K,).
    band
        The likelihood counts pixels within it.
    power
        The likelihood to this power: below 1 while classes are looked for (deterministic annealing; Rose, Proc. IEEE
        86, 2210, 1998).
    """
    posed, plane = images.posed, images.plane.within(band)
    device = plane.kx.device
    spectra = [[volume_spectrum(volume, band) for volume in of_fold] for of_fold in maps]
    options = posed.rotations.shape[1]
    offset = (prior.clamp(min=1e-12) / options).log().to(device)[:, None]
    posterior = torch.empty(len(posed), len(prior), options)
    evidence = torch.empty(len(posed), dtype=torch.float64)
    for fold, place, batch in images.batches():
        own = spectra[fold if len(spectra) > 1 else 0]

        def judge(
            here: slice, place: Tensor = place, batch: WeightedImages = batch, own: list[Spectrum] = own
        ) -> None:
            rotations = posed.rotations[place[here]].to(device).flatten(0, 1)
            near = batch[here].within(len(plane))
            scores = torch.stack([_scores(s.slices(rotations, plane), near) for s in own], 1).double()
            evidence[place[here]] = (scores + offset).flatten(1).logsumexp(1).cpu()
            joint = power * scores + offset
            posterior[place[here]] = joint.flatten(1).softmax(1).view_as(joint).float().cpu()

        in_batches(judge, len(place), len(place), "images compared with classes")
    return Expected(posterior, evidence)


def _scores(slices: Tensor, images: WeightedImages) -> Tensor:
    """Log-likelihoods (B, O) of O slices (B·O, 2, M) for each of B images."""
    b, m = len(images), slices.shape[-1]
    cross = torch.bmm(slices.view(b, -1, 2 * m), images.data.view(b, 2 * m, 1))[..., 0]
    power = slices.square().sum(1).view(b, -1, m)
    return 2 * cross - torch.bmm(power, images.power[..., None])[..., 0]


def likeliest(posterior: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Best class, its best candidate, and the class' posterior: each (n,), from (n, K, O)."""
    probability, label = posterior.sum(2).max(1)
    return label, posterior[torch.arange(len(label)), label].argmax(1), probability


def with_noise_left(specimen: Specimen, posed: Posed, maps: Tensor, posterior: Tensor, band: float) -> Posed:
    """The half-set with its noise measured anew: what the likeliest class leaves unexplained within ``band``."""
    images = specimen.images
    plane = images.plane(images.box / 2)
    inside = plane.within(band)
    label, option, _ = likeliest(posterior)
    chosen = posed.rotations[torch.arange(len(posed)), option]
    sums = torch.zeros(posed.noise.shape, dtype=torch.float64, device=images.device)
    counts = torch.zeros(len(sums), dtype=torch.float64, device=images.device)
    for fold in range(posed.folds):
        spectra = [volume_spectrum(volume, band) for volume in maps[fold]]
        places = posed.places(fold)

        def add(
            here: slice,
            rows: Tensor,
            transforms: Tensor,
            ctf: Tensor,
            places: Tensor = places,
            spectra: list[Spectrum] = spectra,
        ) -> None:
            place = places[here]
            predicted = torch.zeros(len(rows), 2, len(inside), device=images.device)
            for k, spectrum in enumerate(spectra):
                own = torch.nonzero(label[place] == k)[:, 0]
                if len(own):
                    slices = spectrum.slices(chosen[place[own]].to(images.device), inside)
                    predicted[own.to(images.device)] = slices
            away = inside.phases(-posed.shifts_px[place].to(plane.kx))
            transforms[:, :, : len(inside)] -= complex_product(predicted * ctf[:, None, : len(inside)], away)
            group = images.group[rows].to(images.device)
            left = shell_means(transforms.square().sum(1), plane).double()
            ones = torch.ones_like(group, dtype=torch.float64)
            sums.index_add_(0, group, left)
            counts.index_add_(0, group, ones)

        images.each(posed.rows[places], plane, add, "images whose noise is measured")
    return replace(posed, noise=spread(sums, counts))

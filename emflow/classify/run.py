"""Classes by expectation and maximisation: drawn particles at low resolution, then passes over all."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from emflow.classify.config import ClassifyRun
from emflow.classify.draw import Drawing, State, balanced
from emflow.classify.model import Sums, average, raw_average
from emflow.classify.near import Assigned, Explained, assign_near, explain
from emflow.device import generator
from emflow.em.batches import in_batches
from emflow.em.grids import shift_grid
from emflow.em.images import ImageSet, shell_means, typical_spectra, weigh
from emflow.em.masks import soft_sphere
from emflow.em.search import WeightedImages, batch_size
from emflow.em.slices import HalfPlane
from emflow.em.turns import Turns, angle_spacing_deg, angles_deg

log = logging.getLogger("emflow")

STRONG = 4.0
"""Power at low frequency, over the median's, from which an image is no particle like the others."""


@dataclass(frozen=True)
class Classes:
    """Classes and what became of each particle."""

    averages: Tensor
    """Wiener averages of both half-sets together, (K, box, box)."""
    halves: tuple[Tensor, Tensor]
    """Averages of each half-set's own particles, (K, box, box)."""
    assigned: Assigned
    explained: Explained
    noise: Tensor
    """Power per optics group and shell, (G, S)."""
    band: float
    turns: Turns
    sums: Sums
    sound: Tensor
    """Rows of the images that shaped the classes."""
    power: Tensor
    """Of each image and shell, (N, S)."""


class Classification:
    """One classification of an image set."""

    def __init__(self, images: ImageSet, diameter_angstrom: float, cfg: ClassifyRun) -> None:
        self.cfg, self.diameter = cfg, diameter_angstrom
        self.extent = images.box * images.pixel_size_angstrom
        self.radius_px = min(0.55 * diameter_angstrom / images.pixel_size_angstrom, images.box / 2 - 3)
        self.images = masked(images, diameter_angstrom)
        self.count = cfg.n_classes or min(200, max(10, len(images) // 50))
        self.random = generator(cfg.seed, 60)
        most = images.box / 2 - 1
        first = cfg.resolution_angstrom or diameter_angstrom / 10
        finest = cfg.finest_angstrom or diameter_angstrom / 24
        self.first = min(most, max(4.0, self.extent / first))
        self.finest = min(most, max(self.first, self.extent / finest))

    def turns(self, band: float) -> Turns:
        """The in-plane angles that a band needs."""
        plane = self.images.plane(band)
        spacing = angle_spacing_deg(plane.box, band, self.radius_px)
        return Turns.build(plane, angles_deg(spacing, self.images.device))

    def step_px(self, band: float) -> float:
        """Step of shifts that a band needs: two fifths of its finest period."""
        return self.images.box / (2.5 * band)

    def run(self) -> Classes:
        """Classify."""
        cfg, images = self.cfg, self.images
        turns = self.turns(self.first)
        power = self.power(images.plane(self.finest))
        self.sound = sound_images(power, self.first)
        pixels = torch.bincount(images.plane(self.finest).shell)
        noise = typical_spectra(power[self.sound], images.group[self.sound], pixels)[0].to(images.device)
        state = self.draw_and_average(noise)
        averages, noise, favour = state.averages, state.noise, state.favour
        assigned = self.assign_all(averages, turns, noise, favour)
        favour = self.balance(assigned)
        bands = torch.linspace(self.first, self.finest, cfg.passes + 1)[1:].tolist()
        sums = Sums.empty(self.count, turns)
        for number, band in enumerate(bands):
            turns = self.turns(band)
            moves = shift_grid(1.5 * self.step_px(band), self.step_px(band))
            spectra = turns.spectra(averages)
            assigned, sums = assign_near(images, noise, turns, (spectra, spectra), assigned, moves, favour)
            averages = average(sums.grid.sum(0), turns, self.radius_px)
            favour = self.balance(assigned)
            explained = explain(images, noise, turns, turns.spectra(averages), assigned)
            left = explained.noise(images, self.sound)
            noise = torch.cat([left, noise[:, left.shape[1] :]], 1)
            log.info("pass %d: %.1f Å, %d classes", number + 1, self.extent / band, len(averages))
        halves = (
            average(sums.grid[0], turns, self.radius_px),
            average(sums.grid[1], turns, self.radius_px),
        )
        # each particle is judged by averages of the other half-set, which have not seen it
        crossed = turns.spectra(halves[1]), turns.spectra(halves[0])
        moves = shift_grid(1.5 * self.step_px(self.finest), self.step_px(self.finest))
        judged, _ = assign_near(images, noise, turns, crossed, assigned, moves, favour)
        explained = explain(images, noise, turns, crossed, judged)
        return Classes(
            averages, halves, judged, explained, noise, self.finest, turns, sums, self.sound, power
        )

    def power(self, plane: HalfPlane) -> Tensor:
        """Mean power of each image in each shell, (N, S)."""
        rows = torch.arange(len(self.images))
        out = torch.empty(len(rows), int(plane.shell[-1]) + 1)

        def measure(place: slice, part: Tensor, transforms: Tensor, ctf: Tensor) -> None:
            out[place] = shell_means(transforms.square().sum(1), plane).cpu()

        self.images.each(rows, plane, measure, "images whose power is measured")
        return out

    def draw_and_average(self, noise: Tensor) -> State:
        """Iterations on drawn particles, with a memory that grows, in two bands: averages, noise, log prior."""
        cfg, images = self.cfg, self.images
        drawn = min(len(self.sound), cfg.n_drawn or max(500, 10 * self.count))
        turns = self.turns(0.8 * self.first)
        state = State(self.first_averages(turns, noise), noise, torch.zeros(self.count, device=images.device))
        shifts_px, order = torch.zeros(len(images), 2), self.shuffled()
        half = cfg.n_iterations // 2
        sums = Sums.empty(self.count, turns)
        moves = self.shifts(turns.plane)
        for iteration in range(cfg.n_iterations):
            if iteration == half:
                turns = self.turns(self.first)
                sums = Sums.empty(self.count, turns)
                # particles that were drawn have a shift already; the first band's step is what is left open
                step = self.step_px(self.first)
                moves = shift_grid(1.5 * step, step).to(turns.points)
            if len(order) < drawn:
                order = torch.cat([order, self.shuffled()])
            rows, order = order[:drawn].sort().values, order[drawn:]
            memory = min(0.9, 0.4 + (iteration % half) / max(half, 1))
            sums.fade(memory)
            known = shifts_px[rows] if iteration >= half else torch.zeros(len(rows), 2)
            drawing = Drawing(self, rows, turns, moves, known, state)
            drawing.add_to(sums, with_nothing=iteration >= half)
            shifts_px[rows] = known + moves[drawing.shift].cpu()
            every = torch.arange(self.count, device=images.device).expand_as(drawing.scores)
            state.favour = balanced(every, drawing.scores, self.count)
            if iteration < 0.75 * cfg.n_iterations:
                drawing.revive(sums, state.favour, self.random)
            averages = average(sums.grid.sum(0), turns, self.radius_px)
            state.averages = centred(averages, 0.5 * self.radius_px)
            state.follow(drawing.residual(), 1 - memory)
        log.info("sizes after the draws: %s", sums.count.sum(0).sort(descending=True).values.int().tolist())
        return state

    def balance(self, assigned: Assigned) -> Tensor:
        """Log prior of classes that keeps them even, from the sound particles' candidates."""
        found = balanced(assigned.candidates[self.sound], assigned.scores[self.sound], self.count)
        return found.to(self.images.device)

    def shuffled(self) -> Tensor:
        """Sound images in random order."""
        return self.sound[torch.randperm(len(self.sound), generator=self.random)]

    def shifts(self, plane: HalfPlane) -> Tensor:
        """Shifts of a whole search."""
        reach = self.cfg.shift_fraction * self.diameter / self.images.pixel_size_angstrom
        step = self.step_px(float(plane.radius[-1]))
        return shift_grid(max(reach, step), step).to(plane.kx)

    def first_averages(self, turns: Turns, noise: Tensor) -> Tensor:
        """Averages of a few particles each, as they lie, noise and all: what is alike in all would stay alike."""
        each = max(3, min(10, len(self.images) // self.count))
        sums = Sums.empty(self.count, turns)
        upright = Turns.build(turns.plane, torch.zeros(1), turns.padding)
        for k in range(self.count):
            rows = self.shuffled()[:each].sort().values
            weighted = self.weighted(rows, turns.plane, noise)
            numerator, denominator = weighted.data.sum(0)[None, None], weighted.power.sum(0)[None, None]
            sums.grid[0, k] = upright.insert(numerator, denominator)[0]
        disc = soft_sphere(self.images.box, self.radius_px, 2.0, 2, device=self.images.device)
        return 0.7 * raw_average(sums.grid[0], turns) * disc

    def weighted(self, rows: Tensor, plane: HalfPlane, noise: Tensor) -> WeightedImages:
        """Some images, weighed by their groups' noise."""
        transforms, ctf = self.images.transforms(rows, plane)
        return weigh(transforms, ctf, noise, self.images.group[rows], plane)

    def assign_all(self, averages: Tensor, turns: Turns, noise: Tensor, favour: Tensor) -> Assigned:
        """Compare every particle with every class, angle and shift once."""
        cfg, images = self.cfg, self.images
        k, q = self.count, len(turns)
        flat = turns.slices(turns.spectra(averages)).reshape(k * q, 2, -1)
        twice, power = flat.flatten(1).T.mul(2).contiguous(), flat.square().sum(1).T.contiguous()
        moves = self.shifts(turns.plane)
        phases = turns.plane.phases(moves)
        keep = min(cfg.candidates, k)
        found = Assigned.empty(len(images), keep)

        def assign(here: slice) -> None:
            part = torch.arange(here.start, here.stop)
            weighted = self.weighted(part, turns.plane, noise)
            scores = weighted.shifted(phases).flatten(2) @ twice
            scores -= (weighted.power @ power)[:, None]
            scores = scores.view(len(part), len(phases), k, q)
            by_class = torch.logsumexp(scores.transpose(1, 2).flatten(2), 2)
            found.candidates[part] = (by_class + favour).topk(keep, 1).indices.cpu()
            found.scores[part] = by_class.cpu().gather(1, found.candidates[part])
            found.number[part] = found.candidates[part, 0]
            first = found.number[part].to(scores.device)
            own = scores[torch.arange(len(part)), :, first].flatten(1).argmax(1)
            found.shifts_px[part] = moves[own // q].cpu()
            found.psi_deg[part] = turns.angles_deg[own % q].float().cpu()

        size = batch_size(k * q * len(phases), images.device)
        in_batches(assign, len(images), size, "images compared with classes")
        return found


def sound_images(power: Tensor, band: float) -> Tensor:
    """Rows of images that are not far stronger at low frequency than most, as carbon, ice and edges are.

    Parameters
    ----------
    power
        Per image and shell, (N, S).
    band
        Up to which detail shapes the classes; a third of it is looked at.
    """
    low = low_power(power, band)
    return torch.nonzero(low <= STRONG * low.median())[:, 0]


def low_power(power: Tensor, band: float) -> Tensor:
    """Mean power (N,) over the lowest third of a band, of spectra (N, S)."""
    return power[:, 1 : max(3, round(band / 3) + 1)].mean(1)


def masked(images: ImageSet, diameter_angstrom: float) -> ImageSet:
    """Images whose surroundings, with the neighbours in them, are taken away by a soft disc."""
    radius = 0.65 * diameter_angstrom / images.pixel_size_angstrom
    if radius > images.box / 2 - 2:
        return images
    disc = soft_sphere(images.box, radius, max(2.0, 0.1 * radius), 2)
    read = images.read
    return replace(images, read=lambda rows: read(rows) * disc)


def centred(averages: Tensor, radius_px: float) -> Tensor:
    """Move each average by whole pixels so that the mass of its brighter half lies in the middle."""
    n = averages.shape[-1]
    line = (torch.arange(n, device=averages.device) - n // 2).float()
    mass = (averages - 0.3 * averages.amax((1, 2), keepdim=True)).clamp(min=0)
    total = mass.sum((1, 2)).clamp(min=1e-12)
    x = ((mass.sum(1) * line).sum(1) / total).round().clamp(-radius_px, radius_px).long()
    y = ((mass.sum(2) * line).sum(1) / total).round().clamp(-radius_px, radius_px).long()
    return torch.stack(
        [image.roll((-int(b), -int(a)), (0, 1)) for image, a, b in zip(averages, x, y, strict=True)]
    )

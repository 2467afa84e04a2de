"""One iteration on drawn particles: weights, sums, what is left, and classes that have run empty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from emflow.classify.model import Sums
from emflow.em.batches import in_batches
from emflow.em.images import shell_means, typical_spectra, weigh
from emflow.em.search import WeightedImages, batch_size
from emflow.em.slices import complex_product
from emflow.em.turns import Turns

if TYPE_CHECKING:
    from emflow.classify.run import Classification

_LARGEST = 1.5
"""No class shall have more than so many times its even share."""
_ROUNDS = 40
_MOST = 30.0
"""Rounds of the balance, and the log prior that it may reach: more would force particles into classes unlike them."""


def balanced(candidates: Tensor, scores: Tensor, classes: int) -> Tensor:
    """Log prior of the classes that keeps each below a size, (K,).

    At low signal the largest average has the least noise, fits all views best, and would take all particles. As
    in optimal transport (Cuturi, NeurIPS 2013), one number per class is found such that the posterior shares
    keep the bound.

    Parameters
    ----------
    candidates, scores
        Classes compared with each particle and the log-likelihood of each, (N, C).
    classes
        K.
    """
    favour = torch.zeros(classes, dtype=torch.float64, device=scores.device)
    even = len(scores) / classes
    flat = candidates.flatten()
    values = scores.double()
    for _ in range(_ROUNDS):
        posterior = torch.softmax(values + favour[candidates], 1).flatten()
        share = torch.zeros_like(favour).index_add_(0, flat, posterior) / even
        favour -= 0.8 * torch.log((share / _LARGEST).clamp(min=1.0))
    return favour.clamp(min=-_MOST).to(scores)


@dataclass
class State:
    """What goes from iteration to iteration."""

    averages: Tensor
    """(K, box, box)."""
    noise: Tensor
    """Power per optics group and shell, (G, S)."""
    favour: Tensor
    """Log prior of the classes, (K,)."""

    def follow(self, found: tuple[Tensor, Tensor], rate: float) -> None:
        """Move the noise of the groups seen towards what was found: spectra (G, S') and counts (G,)."""
        spectra, counts = found
        shells = spectra.shape[1]
        seen = torch.nonzero(counts[: len(spectra)])[:, 0].to(self.noise.device)
        old = self.noise[seen, :shells]
        self.noise = self.noise.clone()
        self.noise[seen, :shells] = old + rate * (spectra.to(old)[seen.to(old.device)] - old)


class Drawing:
    """Drawn particles against all classes, angles and shifts."""

    def __init__(
        self,
        whole: Classification,
        rows: Tensor,
        turns: Turns,
        moves_px: Tensor,
        known_px: Tensor,
        state: State,
    ) -> None:
        """Compare B particles, each moved by its known shift (B, 2), with the state's averages."""
        images, plane = whole.images, turns.plane
        self.turns, self.phases = turns, plane.phases(moves_px)
        self.half, self.group = images.half[rows], images.group[rows]
        transforms, self.ctf = images.transforms(rows, plane)
        self.transforms = complex_product(transforms, plane.phases(known_px.to(plane.kx)))
        self.weighted = weigh(self.transforms, self.ctf, state.noise, self.group, plane)
        self.slices = turns.slices(turns.spectra(state.averages))
        self.favour = state.favour
        self.reference = torch.zeros(len(rows), dtype=torch.long, device=images.device)
        self.shift = torch.zeros_like(self.reference)
        self.scores = torch.zeros(len(rows), len(state.favour), device=images.device)

    @property
    def number(self) -> Tensor:
        """Class of each, (B,)."""
        return self.reference // len(self.turns)

    def add_to(self, sums: Sums, with_nothing: bool) -> None:
        """Add the particles to the sums by their posterior weights (Sigworth, J. Struct. Biol. 122, 328, 1998).

        With ``with_nothing``, a box may hold nothing: then noise alone, at as many angles and shifts, is one more class.
        """
        k, q, _, m = self.slices.shape
        flat = self.slices.reshape(k * q, 2, -1)
        twice, power = flat.flatten(1).T.mul(2).contiguous(), flat.square().sum(1).T.contiguous()
        t = len(self.phases)
        step = batch_size(2 * k * q * t, flat.device)
        for half in (0, 1):
            numerator, denominator = flat.new_zeros(k * q, 2 * m), flat.new_zeros(k * q, m)
            count = flat.new_zeros(k)
            places = torch.nonzero(self.half == half + 1)[:, 0].to(flat.device)

            def add(
                here: slice,
                places: Tensor = places,
                whole: tuple[Tensor, Tensor, Tensor] = (numerator, denominator, count),
            ) -> None:
                place = places[here]
                own = self.weighted[place]
                moved = own.shifted(self.phases).flatten(2)
                scores = (moved @ twice).sub_((own.power @ power)[:, None])
                scores = scores.view(-1, t, k, q)
                by_class = torch.logsumexp(scores.transpose(1, 2).flatten(2), 2)
                self.scores[place] = by_class
                total = torch.logsumexp(by_class + self.favour, 1)
                if with_nothing:
                    total = torch.logaddexp(total, torch.full_like(total, math.log(q * t)))
                scores += self.favour[:, None]
                weights = scores.sub_(total[:, None, None, None]).exp_().flatten(2)
                by_reference = weights.sum(1)
                self.reference[place] = by_reference.argmax(1)
                self.shift[place] = weights.sum(2).argmax(1)
                counted = by_reference.view(-1, k, q).sum((0, 2))
                whole[0].addmm_(weights.flatten(0, 1).T, moved.flatten(0, 1))
                whole[1].addmm_(by_reference.T, own.power)
                whole[2].add_(counted)

            in_batches(add, len(places), step, "images compared with classes")
            sums.add(half, numerator.view(k, q, 2, m), denominator.view(k, q, m), count, self.turns)

    def residual(self) -> tuple[Tensor, Tensor]:
        """Power that the likeliest references leave in most images, per group and shell, and images per group."""
        predicted = self.slices.flatten(0, 1)[self.reference] * self.ctf[:, None]
        rest = complex_product(self.transforms, self.phases[self.shift]) - predicted
        plane = self.turns.plane
        power = shell_means(rest.square().sum(1), plane).cpu()
        return typical_spectra(power, self.group, torch.bincount(plane.shell).cpu())

    def revive(self, sums: Sums, favour: Tensor, random: torch.Generator) -> None:
        """Give classes that have run empty half of a large one's particles each, and its favour (K,)."""
        total, q = sums.count.sum(0), len(self.turns)
        power = self.slices[:, 0].square().sum((1, 2))
        lost = (total < 0.15 * total.mean()) | (power < 0.05 * power.quantile(0.9))
        total = torch.where(lost, 0.0, total)
        number = self.number.clone()
        for k in torch.nonzero(lost)[:, 0].tolist():
            largest = int(total.argmax())
            members = torch.nonzero(number == largest)[:, 0].cpu()
            if len(members) < 6:
                break
            part = members[torch.randperm(len(members), generator=random)[: len(members) // 2]]
            part = part.to(number.device)
            moved: WeightedImages = self.weighted[part].moved(self.phases[self.shift[part]])
            own = Turns.build(self.turns.plane, self.turns.angles_deg[self.reference[part] % q])
            sums.grid[:, k] = 0.5 * own.insert(moved.data[None], moved.power[None])[0]
            sums.count[:, k] = len(part) / 2
            number[part] = k
            total[k] = total[largest] / 2
            total[largest] /= 2
            favour[k] = favour[largest]

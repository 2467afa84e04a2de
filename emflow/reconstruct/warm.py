"""Go on from an earlier refinement when particles have been added.

What is known is kept: the earlier particles keep their poses and their half-set. Each half's reference is
rebuilt from these, and only the new particles are searched over all orientations, each against the
reference of its own half. What follows are local iterations of all particles together.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.images import noise_spectra
from emflow.em.pose_fit import FittedPoses
from emflow.reconstruct.refine import HalfState, Refinement, State

log = logging.getLogger("emflow")

LEAST_KNOWN = 0.5
"""Share of each half-set that an earlier refinement must have known: a minority makes no reference for the rest."""


@dataclass(frozen=True)
class Previous:
    """What an earlier refinement says about the particles of this one."""

    known: Tensor
    """Whether it had the particle, (N,)."""
    poses: FittedPoses
    """Of all N, in pixels of this refinement's images; those of new particles mean nothing."""
    particles: int
    """How many it had in all."""

    def enough(self, half: Tensor) -> bool:
        """Whether it knew enough of both half-sets (N,) to go on from."""
        shares = [float(self.known[half == number].float().mean()) for number in (1, 2)]
        return min(shares) >= LEAST_KNOWN


def warm_state(refinement: Refinement, previous: Previous) -> State:
    """State before the first joint iteration: known poses as they were, new particles searched globally.

    Parameters
    ----------
    refinement
        Of all particles, known and new.
    previous
        What is known.
    """
    images = refinement.images
    known: list[HalfState] = []
    fresh: list[HalfState] = []
    for number in (1, 2):
        rows = images.rows(number)
        noise = noise_spectra(images, rows, refinement.plane)
        volume = torch.zeros(1, device=images.device)
        for into, wanted in ((known, previous.known[rows]), (fresh, ~previous.known[rows])):
            own = rows[wanted]
            into.append(HalfState(own, volume, noise, previous.poses[own]))
    curve, filling = _references(refinement, known)
    shell = refinement.last_shell(curve)
    entry = {"iteration": 0, "band": shell + 2.0, "shell": shell}
    state = State((known[0], known[1]), curve, filling, history=[entry])
    band = refinement.band(state)
    halves = []
    for number, (old, new) in enumerate(zip(known, fresh, strict=True), start=1):
        if len(new.rows):
            log.info("half %d: searching all orientations of %d new particles", number, len(new.rows))
            new.volume = old.volume
            random = generator(refinement.cfg.seed, number, 0)
            new, _ = refinement.find_poses(new, band, True, random)
        halves.append(_joined(old, new))
    return State((halves[0], halves[1]), curve, filling, history=[entry])


def _references(refinement: Refinement, halves: list[HalfState]) -> tuple[Tensor, float]:
    """Give each half the reference that its own particles make; the halves' FSC, and what the particle fills."""
    sums = [refinement.accumulate(half) for half in halves]
    raw = [s.solve() for s in sums]
    filling = 1.0
    for _ in range(2):  # the second time with the part of the sphere that the particle fills
        curve = refinement.compare(raw, filling)
        references = refinement.regularise(sums, raw, curve)
        filling = max(share for _, share in references)
    for half, (volume, _) in zip(halves, references, strict=True):
        half.volume = volume
    return curve, filling


def _joined(old: HalfState, new: HalfState) -> HalfState:
    """Both parts of a half-set, in the order of their rows."""
    rows = torch.cat([old.rows, new.rows])
    order = rows.argsort()
    poses = FittedPoses.cat([old.poses, new.poses])
    return HalfState(rows[order], old.volume, old.noise, poses[order])

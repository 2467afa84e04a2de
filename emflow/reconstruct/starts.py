"""How many random starts: more while the two half-sets do not agree on a structure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from emflow.em.images import ImageSet
from emflow.reconstruct.abinitio import HalfSearch, Start
from emflow.reconstruct.agreement import likeness
from emflow.reconstruct.assign import assign
from emflow.reconstruct.config import ReconstructAbinitio
from emflow.reconstruct.join import HalfMap, Joined, join

log = logging.getLogger("emflow")


class Store(Protocol):
    """Where intermediate results are kept, such as :class:`emflow.io.checkpoint.Checkpoint`."""

    def save(self, tensors: Mapping[str, Tensor], more: Mapping[str, Any]) -> None:
        """Keep tensors and JSON."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was kept, or None."""


def find_halves(
    images: ImageSet, diameter_angstrom: float, cfg: ReconstructAbinitio, store: Callable[[str, str], Store]
) -> tuple[tuple[HalfMap, HalfMap], Joined]:
    """Both half-sets' maps, and how far they agree.

    Each half-set makes ``n_starts`` starts; while the maps do not agree beyond a sphere, or are not alike as a whole,
    as many again, up to ``max_starts``. Which start is taken is decided by its likelihood in its own half-set; the
    agreement decides only whether the search goes on.

    Parameters
    ----------
    images
        Both half-sets.
    diameter_angstrom
        Of the particle.
    cfg
        Settings.
    store
        Given a name and what its content depends on beside input and settings: where to keep it. What a killed run
        has found is kept start by start.
    """
    halves = [_Half(images, number, diameter_angstrom, cfg, store) for number in (1, 2)]
    starts = min(cfg.n_starts, cfg.max_starts)
    while True:
        found = halves[0].found(starts), halves[1].found(starts)
        joined = join(images, found, diameter_angstrom, cfg.symmetry)
        more = min(2 * starts, cfg.max_starts)
        if joined.same or more <= starts:
            return found, joined
        log.info("The half-sets do not agree on a structure yet: %d more starts in each.", more - starts)
        starts = more


class _Half:
    """A half-set's search, kept as far as it came."""

    def __init__(
        self,
        images: ImageSet,
        number: int,
        diameter: float,
        cfg: ReconstructAbinitio,
        store: Callable[[str, str], Store],
    ) -> None:
        self.images, self.number, self.diameter, self.cfg = images, number, diameter, cfg
        self.store = store
        self.search: HalfSearch | None = None
        self.evidence: list[float] = []
        self.likeliest: list[Start] = []
        """The ``n_finalists`` likeliest starts in the lowest band, best first."""
        self.advanced: dict[int, Start] = {}

    def found(self, starts: int) -> HalfMap:
        """Maps and poses after a number of starts."""
        checkpoint = self.store(f"half{self.number}", f"after {starts} starts")
        kept = checkpoint.load()
        if kept is not None:
            tensors, figures = kept
            tensors["volume"] = tensors["volume"].to(self.images.device)
            fields: dict[str, Any] = {**tensors, **figures}
            return HalfMap(**fields)
        search = self._explored(starts)
        half = self._finish(search)
        names = ("rows", "rotations", "shifts_px", "volume", "noise")
        facts = ("scale", "band", "evidence", "finalists", "likeness", "chosen", "trace")
        checkpoint.save(
            {name: getattr(half, name) for name in names}, {name: getattr(half, name) for name in facts}
        )
        return half

    def _explored(self, starts: int) -> HalfSearch:
        """The search with a number of starts behind it."""
        checkpoint = self.store(f"starts{self.number}", "")
        if self.search is None:
            self.search = HalfSearch(self.images, self.number, self.diameter, self.cfg)
            self._resume(checkpoint)
        while len(self.evidence) < starts:
            start = self.search.explore(len(self.evidence))
            self.evidence.append(start.evidence)
            best = sorted([*self.likeliest, start], key=lambda one: -one.evidence)
            self.likeliest = best[: self.cfg.n_finalists]
            kept = {"volumes": torch.stack([one.volume for one in self.likeliest])}
            figures = {
                "evidence": self.evidence,
                "starts": [[one.number, one.evidence, one.trace] for one in self.likeliest],
            }
            checkpoint.save(kept, figures)
        return self.search

    def _resume(self, checkpoint: Store) -> None:
        kept = checkpoint.load()
        if kept is None:
            return
        tensors, figures = kept
        volumes = tensors["volumes"].to(self.images.device)
        self.evidence = figures["evidence"]
        self.likeliest = [
            Start(number, volume, evidence, trace)
            for volume, (number, evidence, trace) in zip(volumes, figures["starts"], strict=True)
        ]

    def _finish(self, search: HalfSearch) -> HalfMap:
        """The likeliest starts go on; the likeliest of these climbs, and gives poses."""
        for start in self.likeliest:
            if start.number not in self.advanced:
                self.advanced[start.number] = search.advance(start)
        finalists = [self.advanced[start.number] for start in self.likeliest]
        best = max(finalists, key=lambda one: one.evidence)
        alike = [
            likeness(one.volume, best.volume, self.cfg.symmetry, int(search.band))
            for one in finalists
            if one is not best
        ]
        volume, trace = search.climb(best)
        rotations, shifts = assign(search, volume)
        return HalfMap(
            search.rows,
            rotations,
            shifts,
            volume,
            search.scale,
            float(search.plane.radius[-1]),
            search.noise,
            list(self.evidence),
            [one.evidence for one in finalists],
            alike,
            best.number,
            trace,
        )

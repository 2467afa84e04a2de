"""How many random starts: more while the two half-sets do not agree on a structure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from emflow.em.images import ImageSet
from emflow.reconstruct.abinitio import HalfMap, HalfSearch, Start
from emflow.reconstruct.config import ReconstructAbinitio
from emflow.reconstruct.join import Joined, join

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

    Each half-set makes ``n_starts`` starts; while the maps do not agree beyond a sphere, as many again, up to
    ``max_starts``. Which start is taken is decided by its likelihood in its own half-set; the agreement decides only
    whether the search goes on.

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
    starts = cfg.n_starts
    while True:
        found = halves[0].found(starts), halves[1].found(starts)
        joined = join(images, found, diameter_angstrom, cfg.symmetry)
        more = min(2 * starts, cfg.max_starts)
        if joined.agreement.found or more <= starts:
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

    def found(self, starts: int) -> HalfMap:
        """Map and poses after a number of starts."""
        checkpoint = self.store(f"half{self.number}", f"after {starts} starts")
        kept = checkpoint.load()
        if kept is not None:
            tensors, figures = kept
            tensors["volume"] = tensors["volume"].to(self.images.device)
            fields: dict[str, Any] = {**tensors, **figures}
            return HalfMap(**fields)
        search = self.explored(starts)
        half = search.finish()
        names = ("rows", "rotations", "shifts_px", "volume", "noise")
        figures = {"evidence": half.evidence, "chosen": half.chosen, "trace": half.trace}
        checkpoint.save({name: getattr(half, name) for name in names}, figures)
        return half

    def explored(self, starts: int) -> HalfSearch:
        """The search with a number of starts behind it."""
        checkpoint = self.store(f"starts{self.number}", "")
        if self.search is None:
            search = HalfSearch(self.images, self.number, self.diameter, self.cfg)
            kept = checkpoint.load()
            if kept is not None:
                tensors, figures = kept
                tensors = {name: value.to(self.images.device) for name, value in tensors.items()}
                search.best = Start(trace=figures["trace"], **tensors)
                search.evidence, search.chosen = figures["evidence"], figures["chosen"]
            self.search = search
        search = self.search
        while len(search.evidence) < starts:
            search.explore()
            assert search.best is not None
            best = {"volume": search.best.volume, "shifts_px": search.best.shifts_px}
            figures = {"evidence": search.evidence, "chosen": search.chosen, "trace": search.best.trace}
            checkpoint.save(best, figures)
        return search

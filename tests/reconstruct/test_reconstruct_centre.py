"""Particles are centred on their shape before any start of ab initio, from whatever seed; two halves' maps are alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from emflow.em.search import Expectation
from emflow.io.particle_images import image_set
from emflow.reconstruct.abinitio import HalfSearch, Stage
from emflow.reconstruct.config import ReconstructAbinitio
from emflow.reconstruct.inputs import read_particles
from emflow.reconstruct.join import Joined
from emflow.reconstruct.judge import judge_likeness


class Followed(HalfSearch):
    """A search that notes by how much it has moved the particles, in the images' pixels."""

    moved: Tensor | float = 0.0

    def take_shifts(self, stage: Stage, found: Expectation) -> None:
        """Note, and move."""
        self.moved = self.moved + stage.shifts_px[found.shift] * self.scale
        super().take_shifts(stage, found)


def left_px(search: Followed, rotations: Tensor, shifts_px: Tensor) -> Tensor:
    """Distance of particles from their centres, (n,); where in the map the centre is taken to be is free."""
    off = search.moved - shifts_px[search.rows]
    seen = rotations[search.rows].transpose(1, 2)[:, :2]  # of a point of the map: how it shows in x and y
    best = torch.full((len(off),), float("inf"))
    for axes in (rotations[search.rows][:, :2], seen):
        at = torch.linalg.lstsq(axes.reshape(-1, 3), off.reshape(-1, 1)).solution
        rest = (off.reshape(-1, 1) - axes.reshape(-1, 3) @ at).view(-1, 2).norm(dim=1)
        best = rest if rest.median() < best.median() else best
    return best


def test_every_seed_centres_the_particles(tmp_path: Path, make_particles: Any) -> None:
    truth = make_particles(tmp_path, 300, 0.15, spread_px=2.0)
    images = image_set(read_particles(truth.star), torch.device("cpu"))
    before = truth.shifts_px.norm(dim=1).median()
    for seed in range(3):
        cfg = ReconstructAbinitio(seed=seed, shift_fraction=0.25, n_drawn=100)
        search = Followed(images, 1, 120.0, cfg)
        after = left_px(search, truth.rotations, truth.shifts_px)
        assert after.median() < 0.4 * before, f"seed {seed}: {after.median():.2f} of {before:.2f} px"


@pytest.mark.parametrize(("score", "verdict"), [(0.43, "warn"), (0.84, "pass")])
def test_halves_that_are_not_alike_are_told_and_searched_on(score: float, verdict: str) -> None:
    judged = judge_likeness(score)
    assert judged.verdict == verdict
    assert f"{score:.2f}" in judged.evidence

    class Found:
        found = True

    class Aligned:
        pass

    aligned = Aligned()
    aligned.score = score  # type: ignore[attr-defined]
    nothing = torch.zeros(1)
    joined = Joined(nothing, nothing, nothing, nothing, aligned, Found())  # type: ignore[arg-type]
    assert joined.same == (verdict == "pass")

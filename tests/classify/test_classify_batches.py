"""Comparisons with classes add up the same where memory runs out half-way through a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from emflow.classify.config import ClassifyRun
from emflow.classify.draw import Drawing, State
from emflow.classify.model import Sums
from emflow.classify.near import assign_near, explain
from emflow.classify.run import Classification, sound_images
from emflow.em.grids import shift_grid
from emflow.io.particle_images import image_set
from emflow.io.particles import load_half_sets


def test_no_comparison_depends_on_the_batches(
    make_views: Callable[..., Path], scarce_memory: Callable[[int], Any], tmp_path: Path
) -> None:
    images = image_set(load_half_sets(make_views(tmp_path, 60, 6)), torch.device("cpu"))
    whole = Classification(images, 120.0, ClassifyRun(n_classes=3))
    turns = whole.turns(whole.first)
    power = whole.power(images.plane(whole.finest))
    whole.sound = sound_images(power, whole.first)
    noise = power.mean(0, keepdim=True)
    averages = whole.first_averages(turns, noise)
    favour, moves = torch.zeros(3), whole.shifts(turns.plane)

    def compare() -> list[torch.Tensor]:
        out = [whole.power(images.plane(whole.finest))]
        sums = Sums.empty(3, turns)
        state = State(averages, noise, favour)
        drawing = Drawing(whole, torch.arange(len(images)), turns, moves, torch.zeros(len(images), 2), state)
        drawing.add_to(sums, with_nothing=True)
        out += [sums.grid, sums.count, drawing.scores]
        assigned = whole.assign_all(averages, turns, noise, favour)
        spectra = turns.spectra(averages)
        near, sums = assign_near(
            whole.images, noise, turns, (spectra, spectra), assigned, shift_grid(1.0, 1.0), favour
        )
        seen = explain(whole.images, noise, turns, spectra, near)
        return [*out, assigned.scores, sums.grid, sums.count, near.evidence, seen.cross, seen.model, seen.ctf]

    before = compare()
    with scarce_memory(5) as scarce:
        after = compare()
    assert scarce.failures >= 4
    for a, b in zip(before, after, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))

"""Balance of classes, ranking, single particles: by numbers alone."""

from __future__ import annotations

import numpy as np
import torch

from emflow.classify.config import ClassifySelect
from emflow.classify.draw import balanced
from emflow.classify.measure import Columns, shapes
from emflow.classify.run import sound_images
from emflow.classify.select import judge_particles, rank_classes, select
from emflow.em.masks import radius_grid


def classes(**changes: float) -> Columns:
    """Three good classes, and a fourth that differs as told."""
    usual = {
        "particles": 100.0, "resolution_angstrom": 15.0, "correlation": 0.5, "evidence": 50.0,
        "off_centre": 0.02, "extent": 0.6, "edge": 0.2,
    }  # fmt: skip
    return {name: np.array([value] * 3 + [changes.get(name, value)]) for name, value in usual.items()}


def particles(count: int = 200) -> Columns:
    """Particles like each other."""
    rng = np.random.default_rng(0)
    names = ("rest_low", "rest_middle", "rest_high")
    return {
        "evidence": rng.normal(50, 10, count),
        "contrast": np.ones(count),
        **{name: rng.normal(0, 1, count) for name in names},
        "strength": rng.normal(1, 0.1, count),
        "power": np.ones(count),
    }


def test_no_class_takes_all() -> None:
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(400, 8, generator=random)
    scores[:, 0] += 6  # best for everyone
    every = torch.arange(8).expand_as(scores)
    share = torch.softmax(scores + balanced(every, scores, 8), 1).mean(0) * 8
    assert share.max() < 1.7
    assert torch.softmax(scores, 1).mean(0)[0] > 0.9


def test_balance_leaves_even_classes_alone() -> None:
    scores = torch.eye(4).repeat(50, 1) * 30
    assert balanced(torch.arange(4).expand_as(scores), scores, 4).abs().max() == 0


def test_each_fault_lowers_the_score_and_is_named() -> None:
    for change, word in (
        ({"evidence": -2.0}, "no signal"),
        ({"off_centre": 0.5}, "off centre"),
        ({"extent": 1.6}, "larger"),
        ({"edge": 1.5}, "edge"),
        ({"resolution_angstrom": 90.0}, "blurred"),
        ({"particles": 0.0}, "no particles"),
    ):
        ranked = rank_classes(classes(**change))
        assert word in ranked.reason[3]
        assert ranked.score[3] < 0.5 < 0.9 < ranked.score[0]
        assert ranked.reason[0] == ""


def test_a_hollow_shell_is_no_fault_and_an_edge_through_the_box_is() -> None:
    box, diameter = 64, 40.0
    radius = radius_grid(box, 2)
    ball, hole = ((r**2 - radius**2).clamp(min=0).sqrt() for r in (diameter / 2, 0.36 * diameter))
    halo = torch.exp(-((radius - 0.56 * diameter) ** 2) / 8)  # of defocus
    noise = torch.randn(box, box, generator=torch.Generator().manual_seed(0))
    shell = 2 * (ball - hole) - 6 * halo + 0.5 * noise
    carbon = 30.0 * (torch.arange(box) > 45)[:, None] + 0.5 * noise
    off = torch.roll(shell, 14, 1)
    found = classes() | shapes(
        torch.stack([shell, shell.T, carbon, off]) * (radius < 0.65 * diameter), diameter
    )
    ranked = rank_classes(found)
    assert min(ranked.score[:2]) > 0.9
    assert max(ranked.score[2:]) < 0.5


def test_strong_images_are_left_out() -> None:
    power = torch.ones(50, 16)
    power[7, 1:5] = 40
    assert sound_images(power, 12).tolist() == [row for row in range(50) if row != 7]


def test_a_particle_unlike_the_others_goes_with_its_reason() -> None:
    found = particles()
    found["evidence"][0] = -2
    found["power"][1] = 9
    found["rest_middle"][2] = 30
    found["strength"][3] = 0.2
    reasons = judge_particles(found, ClassifySelect())
    for row, word in enumerate(("empty box", "carbon", "medium frequency", "less signal")):
        assert word in reasons[row]
    assert sum(bool(reason) for reason in reasons[4:]) < 0.06 * len(reasons)


def test_a_removed_class_takes_its_particles_along_and_a_person_wins() -> None:
    number = np.arange(200) % 4
    chosen = select(
        number, classes(off_centre=0.5), particles(), ClassifySelect(particle_criterion=False), {}
    )
    assert (chosen.kept == (number != 3)).all()
    chosen = select(number, classes(off_centre=0.5), particles(), ClassifySelect(), {3: True, 0: False})
    assert chosen.kept[number == 3].all()
    assert not chosen.kept[number == 0].any()

"""A pass over the images adds up the same where memory runs out half-way through a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emflow.em.basis import BasisGrid
from emflow.heterogeneity.agree import judge_held_out
from emflow.heterogeneity.config import HeterogeneityFit
from emflow.heterogeneity.inputs import open_stack, read_posed
from emflow.heterogeneity.model import Model, em_pass
from emflow.heterogeneity.prior import Mixture


def test_a_pass_does_not_depend_on_the_batches(
    make_stack: Callable[..., tuple[Path, np.ndarray]], scarce_memory: Callable[[int], Any], tmp_path: Path
) -> None:
    folder, _ = make_stack(3, count=80, groups=2)
    posed = read_posed(folder / "particles.star")
    device = torch.device("cpu")
    stack = open_stack(posed, HeterogeneityFit(), tmp_path / "store", device)
    grid = BasisGrid.build(posed.box, 10.0, device=device)
    random = torch.Generator().manual_seed(0)
    volumes = torch.randn(3, posed.box, posed.box, posed.box, generator=random)
    shells = int(stack.plane.shell[-1]) + 1
    model = Model(0.05 * volumes, 0.01, torch.ones(2, shells))
    eye = torch.eye(2, dtype=torch.float64)
    two = Mixture(0.5 * torch.ones(2).double(), eye - 0.5, torch.stack([eye, 2 * eye]))
    mixed = replace(model, mixture=two)
    table, rows = grid.to_table(model.volumes), posed.rows(1)

    def passes() -> list[torch.Tensor]:
        given = torch.ones(len(rows), 3, dtype=torch.float64)
        sums = [em_pass(stack, rows, grid, table, model, given)]
        sums += [em_pass(stack, rows, grid, table, m) for m in (model, mixed)]
        out = [t for s in sums for t in (s.numerator, s.denominator, s.mean, s.second, s.noise)]
        assert sums[2].mixture is not None
        held_out = judge_held_out(stack, rows, grid, table, model)
        return [*out, sums[2].mixture.mean, held_out.mean, held_out.gain]

    whole = passes()
    with scarce_memory(6) as scarce:
        parts = passes()
    assert scarce.failures >= 2
    for a, b in zip(whole, parts, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))

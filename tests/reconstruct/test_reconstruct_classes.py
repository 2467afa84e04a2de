"""Several structures at once: a mixture of two specimens comes apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import adjusted_rand_score

from emflow.em.frames import align_frames
from emflow.em.fsc import fsc
from emflow.em.volume_align import apply_alignment
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import integers, read_star, write_star
from emflow.reconstruct.command import abinitio
from emflow.reconstruct.config import ReconstructAbinitio
from emflow.step import Run

PIXEL = 6.0


def mixture(folder: Path, make_particles: Callable) -> tuple[np.ndarray, list[torch.Tensor]]:
    """particles.star of two specimens in turn; which is which, and their volumes."""
    sets = []
    for name, group in (("a", "C1"), ("b", "C3")):
        (folder / name).mkdir()
        sets.append(make_particles(folder / name, 160, 1.2, group))
    tables = [read_star(one.star) for one in sets]
    pixels = np.concatenate([read_mrc(folder / name / "particles.mrcs") for name in "ab"])
    write_mrc(folder / "particles.mrcs", pixels, PIXEL)
    table = pd.concat([one["particles"] for one in tables], ignore_index=True)
    table["rlnImageName"] = [f"{i + 1:06d}@{folder / 'particles.mrcs'}" for i in range(len(table))]
    write_star(folder / "particles.star", {"optics": tables[0]["optics"], "particles": table})
    return np.repeat([0, 1], 160), [one.volume for one in sets]


def test_two_specimens_come_apart(tmp_path: Path, make_particles: Callable) -> None:
    truth, volumes = mixture(tmp_path, make_particles)
    cfg = ReconstructAbinitio(
        diameter_angstrom=120,
        n_classes=2,
        n_starts=4,
        max_starts=4,
        n_finalists=2,
        n_iterations=20,
        n_drawn=60,
        resolution_angstrom=40.0,
        shift_fraction=0.1,
    )
    abinitio(tmp_path / "particles.star", tmp_path / "out", cfg=cfg, run=Run(threads=1, device="cpu"))
    table = read_star(tmp_path / "out" / "particles.star")["particles"]
    number = integers(table, "rlnClassNumber")
    assert set(number.tolist()) == {1, 2}
    assert adjusted_rand_score(truth, number) > 0.8
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for at in (1, 2):
        folder = tmp_path / "out" / f"class_{at:02d}"
        own = read_star(folder / "particles.star")["particles"]
        assert len(own) == metrics[f"class_{at:02d}_particles"] == (number == at).sum()
        volume = torch.from_numpy(read_mrc(folder / "map.mrc"))
        true = volumes[np.bincount(truth[number == at]).argmax()]
        alignment = align_frames(volume, true, "C1", 8)
        assert fsc(apply_alignment(volume, alignment), true)[1:6].min() > 0.7

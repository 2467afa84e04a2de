"""Half maps with known truth: a fold's potential and noise that rises with frequency, as raw refinements leave them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.fsc import radial_average, shell_index
from emflow.em.masks import lowpass, soft_sphere
from emflow.em.symmetry import symmetry_operators
from emflow.io.mrc import write_mrc
from emflow.io.star import write_star
from emflow.simulate.density import potential
from emflow.simulate.specimen import Atoms, generate_specimen
from emflow.validate.assess import Evidence, look_for_faults
from emflow.validate.config import ValidateMaps
from emflow.validate.finding import pool
from emflow.validate.inputs import Mask
from emflow.validate.maps import mask_edge_width


@dataclass(frozen=True)
class Pair:
    """Two half maps and what they were made from."""

    half1: Tensor
    half2: Tensor
    signal: Tensor
    """Noise-free map (n, n, n)."""
    noise: tuple[Tensor, Tensor]
    voxel: float
    diameter: float
    symmetry: str
    power: Tensor
    """Power of the noise in each shell, up to the corners' (n//2 + 2,)."""

    def with_halves(self, half1: Tensor, half2: Tensor) -> Pair:
        """The same with other half maps."""
        return replace(self, half1=half1, half2=half2)


@functools.lru_cache(maxsize=8)
def fold(mass: float, diameter: float, seed: int) -> Atoms:
    """Atoms of a random fold; slow, so each is made once."""
    return generate_specimen(mass, diameter, 3, np.random.default_rng(seed))


@functools.lru_cache(maxsize=32)
def specimen(box: int, voxel: float, mass: float, diameter: float, symmetry: str, seed: int) -> Tensor:
    """Potential of a random fold, symmetrised about the box's centre."""
    atoms = fold(mass, diameter, seed)
    if symmetry != "C1":  # copies about the axes, away from them by half the unit's size
        operators = symmetry_operators(symmetry).numpy()
        away = np.array([0.45, 0.3, 0.25 if symmetry[0] != "C" else 0.0]) * diameter
        moved = atoms.moved(np.eye(3), away)
        parts = [potential(moved.moved(g, np.zeros(3)), box, voxel, 60.0) for g in operators]
        return torch.stack(parts).sum(0)
    return potential(atoms, box, voxel, 60.0)


def symmetrised(volume: Tensor, symmetry: str) -> Tensor:
    """Mean over the rotations of C1, C2, C4, D2, D4 or O, which map the grid onto itself (z, y, x; centre n//2)."""
    mean = torch.zeros_like(volume)
    operators = symmetry_operators(symmetry).round().long()
    n = volume.shape[-1]
    line = torch.arange(n) - n // 2
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    for g in operators:
        # the permutation of signed axes; index −n/2 wraps onto itself
        at = [(g[i, 0] * x + g[i, 1] * y + g[i, 2] * z + n // 2) % n for i in range(3)]
        mean += volume[at[2], at[1], at[0]]
    return mean / len(operators) ** 0.5  # the noise keeps its power


def noise_shape(box: int) -> Tensor:
    """Power of a raw half map's noise: rising with the shell as views thin out, rippled by the mean of CTF²."""
    x = torch.arange(box // 2 + 2) / (box / 2)
    return (0.25 + 2.0 * x) * (1 + 0.25 * torch.cos(14 * x) * torch.exp(-3 * x))


def make_pair(
    seed: int = 0, *, box: int = 64, voxel: float = 2.5, mass: float = 150.0, diameter: float = 90.0,
    symmetry: str = "C1", crossing: float = 0.55, bfactor: float = 120.0, support: bool = True,
    hot: float = 1.0, specimen_seed: int = 0,
) -> Pair:  # fmt: skip
    """Two halves whose unmasked FSC falls below 0.143 near ``crossing`` of Nyquist.

    The signal falls by ``bfactor`` (Å²) more than the specimen's own; within the particle the noise is
    stronger by up to ``hot`` at the shells that hold signal, as where parts of it move; beyond a sphere
    (``support``) the maps are zero, as most programs leave them.
    """
    raw = specimen(box, voxel, mass, diameter, symmetry, specimen_seed)
    index = shell_index(box)
    s2 = (index / (box * voxel)) ** 2
    spectrum = torch.fft.rfftn(raw) * torch.exp(-bfactor / 4 * s2) * (index <= box // 2)
    signal = torch.fft.irfftn(spectrum, s=raw.shape)
    power = radial_average(spectrum.abs().square(), index)
    shape = noise_shape(box)
    last = round(crossing * box / 2)
    near = slice(max(last - 1, 1), last + 2)
    level = 6 * float((power[near] / shape[:-1][near]).mean())
    particle = lowpass((raw > 0.15 * raw.max()).float(), voxel, 15.0).clamp(0, 1)
    low = torch.exp(-((index / max(last, 1)) ** 2) / 2)
    window = soft_sphere(box, box / 2 - 3, 3) if support else torch.ones(())
    noises = []
    for k in (1, 2):
        white = symmetrised(torch.randn(box, box, box, generator=generator(seed, k, 77)), symmetry)
        colour = torch.fft.rfftn(white) / box**1.5 * (level * shape[index]).sqrt() * (index <= box // 2 - 1)
        noise = torch.fft.irfftn(colour, s=raw.shape)
        noises.append(noise + hot * particle * torch.fft.irfftn(colour * low, s=raw.shape))
    halves = [(signal + noise) * window for noise in noises]
    return Pair(
        halves[0], halves[1], signal, (noises[0] * window, noises[1] * window), voxel, diameter, symmetry,
        level * shape,
    )  # fmt: skip


@pytest.fixture(scope="session")
def simulate_pair() -> Callable[..., Pair]:
    """The function that makes pairs of half maps."""
    return make_pair


def _verdicts(
    pair: Any, *parts: Any, mask: Tensor | None = None, symmetry: str = "C1", **more: Any
) -> dict[str, Any]:
    """Question → judgement, of some parts of the room; of the one that looks for faults if none is named."""
    cfg = ValidateMaps(symmetry=symmetry, randomisations=1, mask_lowpass_angstrom=12.0)
    mean = (pair.half1 + pair.half2) / 2
    made = Mask.make(mean, pair.voxel, cfg)
    if mask is not None:
        made = Mask(mask, "Mask of the test", mask_edge_width(mask), 0.0, pair.diameter, Path("mask.mrc"))
    given: dict[str, Any] = {"particles": None, "optics": None, "quoted": [], "unrestored": [False, False]}
    evidence = Evidence(
        paths=(Path("half1.mrc"), Path("half2.mrc")),
        halves=(pair.half1, pair.half2),
        mean=mean,
        voxel_size_angstrom=pair.voxel,
        mask=made,
        **(given | more),
    )
    found = pool([part(evidence, cfg) for part in parts or (look_for_faults,)])
    return {row.question: row for row in found.judgements}


@pytest.fixture(scope="session")
def verdicts() -> Callable[..., Any]:
    """The function of that name."""
    return _verdicts


def _row(rows: dict[str, Any], words: str) -> Any:
    return next(judgement for question, judgement in rows.items() if words in question)


@pytest.fixture(scope="session")
def row() -> Callable[..., Any]:
    """The function of that name."""
    return _row


def _filtered(volume: Tensor, weight: Tensor) -> Tensor:
    """Multiply the transform by a weight per shell (n//2 + 2,)."""
    spectrum = torch.fft.rfftn(volume) * weight[shell_index(volume.shape[-1])]
    return torch.fft.irfftn(spectrum, s=volume.shape)


@pytest.fixture(scope="session")
def filtered() -> Callable[..., Any]:
    """The function of that name."""
    return _filtered


def _fake_reconstruction(tmp_path: Path, halves: list[Tensor], starts: tuple[Tensor, Tensor]) -> Path:
    """A project's folders as `reconstruct refine` leaves them."""
    refine, start = tmp_path / "reconstruct" / "refine", tmp_path / "reconstruct" / "abinitio"
    records = tmp_path / "records" / "reconstruct.refine"
    for folder in (refine, start, records):
        folder.mkdir(parents=True)
    for number in (1, 2):
        write_mrc(refine / f"half{number}.mrc", halves[number - 1].numpy(), 3.0)
        write_mrc(start / f"half{number}.mrc", starts[number - 1].numpy(), 3.0)
    inputs = [{"path": f"elsewhere/reconstruct/abinitio/half{number}.mrc"} for number in (1, 2)]
    (records / "all.json").write_text(json.dumps({"inputs": inputs}))
    table = pd.DataFrame(
        {
            "emflowParticleId": [f"p{i}" for i in range(20)],
            "emflowMicrographId": [f"m{i // 5}" for i in range(20)],
            "rlnRandomSubset": [i // 5 % 2 + 1 for i in range(20)],
        }
    )
    write_star(refine / "particles.star", {"particles": table})
    passed = {"question": "Did the two halves begin apart?", "verdict": "pass", "evidence": "", "action": ""}
    (refine / "verdicts.json").write_text(json.dumps([passed]))
    return refine


@pytest.fixture(scope="session")
def fake_reconstruction() -> Callable[..., Any]:
    """The function of that name."""
    return _fake_reconstruction

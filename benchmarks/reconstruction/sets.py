"""Sets of `benchmarks/reconstruct.py`: a simulated stack, blind, with its truth, a common start and a mask.

A set's folder holds particles.star (no poses, half-sets in rlnRandomSubset) with particles.mrcs; start/
(half1.mrc and half2.mrc, the same map twice: truth to 30 Å, on the images' grey scale); truth/ (particles.star
with poses, volume.mrc, mask.mrc, facts.json).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emflow.em.fsc import shell_index
from emflow.em.masks import lowpass, solvent_mask
from emflow.io.mrc import map_mrc, read_header, read_mrc, write_mrc
from emflow.io.star import read_star, write_star

START_ANGSTROM = 30.0
"""The start holds the truth to here."""
POSES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")


@dataclass(frozen=True)
class Kind:
    """What all seeds of a set have in common."""

    symmetry: str
    mass_kda: float
    """Of one asymmetric unit."""
    box_px: int
    pixel_size_angstrom: float
    snr: float
    envelope_b_factor_angstrom2: float
    particles: int = 1000
    content: str = "particles"
    """particles; or noise: every image white noise, the start that of the particles."""

    @property
    def bands_angstrom(self) -> tuple[tuple[float, float], ...]:
        """Bands of the mean FSC to the truth: coarse to fine."""
        return ((20.0, 10.0), (10.0, 7.0)) if self.box_px == 64 else ((20.0, 10.0), (10.0, 7.0), (7.0, 5.0))

    def about(self) -> dict[str, Any]:
        """What a row of results says of its set."""
        names = ("symmetry", "box_px", "pixel_size_angstrom", "snr", "particles")
        return {name: getattr(self, name) for name in names}


KINDS = {
    "c1_64": Kind("C1", 200, 64, 3.4, 0.05, 200),
    "d2_64": Kind("D2", 32, 64, 3.4, 0.03, 200),
    "c1_128": Kind("C1", 200, 128, 1.7, 0.02, 100),
    "d2_128": Kind("D2", 32, 128, 1.7, 0.012, 100),
}
NOISE = {
    # white noise in place of particles; the specimen is the wrong reference
    "noise_c1_64": Kind("C1", 200, 64, 3.4, 0.05, 200, content="noise"),
    "noise_d2_64": Kind("D2", 32, 64, 3.4, 0.03, 200, content="noise"),
}
DIAMETER_ANGSTROM = 150.0


def prepare(folder: Path, kind: Kind, seed: int) -> None:
    """Make a set; nothing is done where it is complete."""
    if (folder / "start" / "half2.mrc").exists():
        return
    words = [
        "simulate", "particles", str(folder), "--seed", str(seed), "--symmetry", kind.symmetry,
        "--diameter-angstrom", str(DIAMETER_ANGSTROM), "--mass-kda", str(kind.mass_kda),
        "--n-particles", str(kind.particles), "--box-px", str(kind.box_px),
        "--pixel-size-angstrom", str(kind.pixel_size_angstrom), "--snr", str(kind.snr),
        "--max-shift-px", str(6.8 / kind.pixel_size_angstrom),
        "--envelope-b-factor-angstrom2", str(kind.envelope_b_factor_angstrom2),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "emflow.cli", *words], check=True, env=environment)
    tables = read_star(folder / "particles.star")
    tables["particles"] = tables["particles"].drop(columns=[*POSES], errors="ignore")
    write_star(folder / "particles.star", tables)
    stack = folder / "particles.mrcs"
    voxel = read_header(stack).voxel_size_angstrom
    if kind.content == "noise":
        pixels = np.random.default_rng(seed).standard_normal(map_mrc(stack).shape, dtype=np.float32)
        write_mrc(stack, pixels, voxel)
    facts = json.loads((folder / "truth" / "facts.json").read_text())
    truth = torch.from_numpy(read_mrc(folder / "truth" / "volume.mrc"))
    mask = solvent_mask(lowpass(truth, voxel, 10.0), voxel, dilate_angstrom=6.0, edge_angstrom=15.0)
    write_mrc(folder / "truth" / "mask.mrc", mask.mask.numpy(), voxel)
    # an image is the scale times the integral of the potential along the beam times the CTF
    start = start_map(truth, voxel) * (facts["scale"] * voxel)
    for half in (1, 2):
        write_mrc(folder / "start" / f"half{half}.mrc", start.numpy(), voxel)


def start_map(truth: Tensor, voxel_size_angstrom: float) -> Tensor:
    """The truth to :data:`START_ANGSTROM`, with a cosine edge of two shells: nothing finer is left to find."""
    n = truth.shape[-1]
    edge = n * voxel_size_angstrom / START_ANGSTROM
    shell = torch.arange(n // 2 + 2)
    weight = 0.5 + 0.5 * torch.cos(torch.pi * ((shell - edge + 1) / 2).clamp(0, 1))
    return torch.fft.irfftn(torch.fft.rfftn(truth) * weight[shell_index(n)], s=(n, n, n))


def prepare_wrong_reference(folder: Path) -> None:
    """Write wrong/, the specimen at full resolution as the start of both halves: Einstein from noise."""
    voxel = read_header(folder / "truth" / "volume.mrc").voxel_size_angstrom
    scale = json.loads((folder / "truth" / "facts.json").read_text())["scale"] * voxel
    volume = read_mrc(folder / "truth" / "volume.mrc") * np.float32(scale)
    for half in (1, 2):
        write_mrc(folder / "wrong" / f"half{half}.mrc", volume, voxel)

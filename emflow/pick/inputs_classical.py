"""Read references to pick with, and the CTF through which they are seen."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emflow.em.optics import Ctf
from emflow.io.micrographs import Micrographs
from emflow.io.mrc import read_header, read_mrc
from emflow.io.record import file_identity
from emflow.io.star import numbers_of
from emflow.pick.apply import require_diameter
from emflow.pick.apply_classical import SIDE, working_pixel
from emflow.pick.config import PickApply
from emflow.pick.references import projections, turned_averages, with_ctf
from emflow.step import EmflowError

CTF = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")


class References:
    """References for each micrograph of a table: at its working pixel, and through its CTF where the table has it."""

    def __init__(self, cfg: PickApply, images: Micrographs, device: torch.device) -> None:
        """Read them.

        Raises
        ------
        EmflowError
            If none are given, or their header tells no pixel size.
        """
        if cfg.references is None:
            raise EmflowError(
                "pick.apply.method is references: give a map or class averages as pick.apply.references (--references)."
            )
        path = Path(cfg.references)
        self._cfg, self._images, self._device = cfg, images, device
        self._given = torch.from_numpy(read_mrc(path)).float()
        self._voxel = read_header(path).voxel_size_angstrom
        if not self._voxel > 0:
            raise EmflowError(f"{path}: its header tells no pixel size; references need one.")
        if self._given.ndim == 2:
            self._given = self._given[None]
        self._is_map = path.suffix != ".mrcs" and len(set(self._given.shape)) == 1
        self._identity = file_identity(path)
        self._made = lru_cache(maxsize=2)(self._make)

    def at(self, row: int, shape: torch.Size) -> Tensor:
        """References (n, k, k) for the micrograph of a row, whose shape is given."""
        pixel = self._images.facts(row).pixel_size_angstrom
        assert pixel is not None
        working = round(working_pixel(shape, pixel, self._cfg), 6)
        made, ctf = self._made(working), self._ctf(row)
        return (made if ctf is None else with_ctf(made, ctf, working)).to(self._device)

    def key(self, row: int) -> list[Any]:
        """What the references of a row depend on."""
        return [
            self._identity,
            *(str(self._images.table[c].iloc[row]) for c in CTF if c in self._images.table),
        ]

    def _make(self, pixel: float) -> Tensor:
        side = 2 * math.ceil(0.5 * SIDE * require_diameter(self._cfg) / pixel) + 1
        spacing = self._cfg.references_spacing_deg
        if self._is_map:
            return projections(self._given, self._voxel, pixel, side, spacing)
        return turned_averages(self._given, pixel / self._voxel, side, spacing)

    def _ctf(self, row: int) -> Ctf | None:
        if CTF[0] not in self._images.table:
            return None
        part = self._images.table.iloc[[row]]
        u, v, angle = (torch.from_numpy(numbers_of(part, name)) for name in CTF)
        if not bool(torch.isfinite(torch.cat([u, v, angle])).all()):
            return None
        facts = self._images.facts(row)
        return Ctf(u * 1e-4, v * 1e-4, angle, facts.voltage_kv, facts.cs_mm, facts.amplitude_contrast)

"""Independent images of one micrograph, from what its table names."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from emflow.denoise.config import DenoiseCheck
from emflow.denoise.inputs import halves_of, read_tensor
from emflow.denoise.scale import Scale
from emflow.denoise.trust import Pair, can_interleave, interleaved, pairs_of_halves, pairs_of_split
from emflow.device import generator
from emflow.io.micrographs import Micrographs
from emflow.step import EmflowError


def evidence_of(micrographs: Micrographs, row: int, scale: Scale, evidence: str) -> str:
    """Where a micrograph's independent data come from: halves, interleaved or split.

    Raises
    ------
    EmflowError
        If it has not what the settings ask for.
    """
    pixel = _pixel(micrographs, row)
    with_halves, fine = halves_of(micrographs, row) is not None, can_interleave(pixel, scale)
    if evidence == "auto":
        return "halves" if with_halves else "interleaved" if fine else "split"
    if evidence == "halves" and not with_halves:
        raise EmflowError(
            f"denoise.check.evidence is halves, but {micrographs.name(row)} has none (columns _emflowEvenName and "
            "_emflowOddName). Give input.even and input.odd (--even, --odd), or set evidence to auto."
        )
    if evidence == "interleaved" and not fine:
        raise EmflowError(
            f"denoise.check.evidence is interleaved, but {micrographs.name(row)} has pixels of {pixel:g} Å; expected "
            f"at most {0.5 * scale.pixel_angstrom:g} Å. Set evidence to auto."
        )
    return evidence


def read_pairs(
    micrographs: Micrographs, row: int, scale: Scale, cfg: DenoiseCheck, device: torch.device
) -> Iterator[Pair]:
    """Two pairs of independent images of one micrograph."""
    kind, pixel = evidence_of(micrographs, row, scale, cfg.evidence), _pixel(micrographs, row)
    if kind == "halves":
        names = halves_of(micrographs, row)
        assert names is not None
        even, odd = (read_tensor(name).to(device) for name in names)
        return pairs_of_halves(even, odd, pixel, scale)
    image = read_tensor(micrographs.name(row)).to(device)
    if kind == "interleaved":
        return pairs_of_halves(*interleaved(image), pixel, scale)
    return pairs_of_split(image, pixel, scale, generator(cfg.seed, 33, row))


def _pixel(micrographs: Micrographs, row: int) -> float:
    pixel = micrographs.facts(row).pixel_size_angstrom
    assert pixel is not None
    return pixel

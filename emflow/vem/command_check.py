"""The command that looks for faults of slices."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from emflow import device as devices
from emflow.io.record import Record
from emflow.io.volume import open_volume
from emflow.step import EmflowError, Run
from emflow.vem.check import check_slices, places_of
from emflow.vem.config import VemCheck
from emflow.vem.inputs import as_float
from emflow.vem.inputs_slices import Measured
from emflow.vem.outputs_slices import write_check, write_slices
from emflow.vem.tell import told_of


def check(volume: Path, out: Path, /, *, cfg: VemCheck = VemCheck(), run: Run = Run()) -> None:
    """Look for slices that are missing, damaged, shifted or of other brightness. Nothing is changed.

    Parameters
    ----------
    volume
        TIFF stack or folder, MRC, HDF5 (FILE:/NAME), N5, Zarr or OME-Zarr.
    out
        Folder to write: slices.star, which vem train and vem restore take, metrics.json, verdicts.json.
    """
    devices.prepare(run)
    source = open_volume(volume)
    if source.shape[0] < 2:
        raise EmflowError(f"{volume}: one slice; expected at least 2.")
    with Record("vem.check", cfg, run, inputs=[volume]) as record:
        y, x = (
            slice((n - min(n, cfg.max_side_px)) // 2, (n + min(n, cfg.max_side_px)) // 2)
            for n in source.shape[1:]
        )

        def read(n: int) -> Tensor:
            return torch.from_numpy(as_float(source.read((slice(n, n + 1), y, x)), source.path)[0])

        places = places_of(source.names) if source.names else list(range(source.shape[0]))
        checked = check_slices(read, places, cfg)
        told = None
        if checked.slices.used.sum() > 1:
            told = told_of(Measured(source, checked.slices.between_used()), 0.9)
        write_slices(out, checked, source.names)
        record.notes = dict(write_check(out, checked, told))

"""Command of the pick room that estimates the particle's diameter."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import torch

from emflow import device as devices
from emflow.io.image import read_image
from emflow.io.micrographs import Micrographs, load_micrographs
from emflow.io.record import Record, write_metrics
from emflow.pick.config_assess import PickSize
from emflow.pick.inputs import is_dark
from emflow.pick.inputs_network import load_general
from emflow.pick.size import DIAMETERS, ENOUGH, Size, estimate, evidence
from emflow.step import EmflowError, Run

log = logging.getLogger("emflow")


def size(micrographs: Path, out: Path, /, *, cfg: PickSize = PickSize(), run: Run = Run()) -> None:
    """Estimate the particle's longest diameter from the micrographs.

    Parameters
    ----------
    micrographs
        STAR table, folder, glob (in quotes) or image.
    out
        JSON file to write: the diameter, the range around it, the evidence at each diameter that was tried.
    """
    device = devices.prepare(run, gpu=False)
    images = load_micrographs(micrographs, cfg)
    with Record("pick.size", cfg, run, inputs=[micrographs]) as record:
        found, seen = gather(images, cfg, device)
        told = require(estimate(found), seen)
        metrics: dict[str, float | int | None] = {**vars(told), "micrographs": seen}
        metrics |= {
            f"evidence_{d:.0f}_angstrom": round(float(e), 2) for d, e in zip(DIAMETERS, found, strict=True)
        }
        write_metrics(out, metrics)
        print(json.dumps(vars(told)))
        record.notes = dict(metrics)


def gather(images: Micrographs, cfg: PickSize, device: torch.device) -> tuple[np.ndarray, int]:
    """Evidence of some micrographs, spread over the table, until it is enough; and how many were looked at."""
    picker = load_general(device)
    number = min(len(images), cfg.max_micrographs)
    rows = np.unique(np.linspace(0, len(images) - 1, number).round().astype(int)).tolist() if number else []
    found, seen = np.zeros(len(DIAMETERS)), 0
    for row in rows:
        pixel = images.facts(row).pixel_size_angstrom
        try:
            image = torch.from_numpy(read_image(images.name(row))).to(device)
        except EmflowError as error:
            log.warning("left out: %s", error)
            continue
        assert pixel is not None
        found += evidence(image, pixel, is_dark(images, row, cfg.contrast), picker)
        seen += 1
        if found.max() > ENOUGH:
            break
    return found, seen


def require(told: Size | None, seen: int) -> Size:
    """The estimate, or raise where the data do not tell."""
    if told is None:
        raise EmflowError(
            f"The particle's diameter cannot be told from {seen} micrographs: the network is sure of no particles at any "
            f"size between {DIAMETERS[1]:.0f} and {DIAMETERS[-2]:.0f} Å. Measure a few by eye and set "
            "sample.diameter_angstrom (or give --diameter-angstrom), or look at more micrographs (--max-micrographs)."
        )
    return told

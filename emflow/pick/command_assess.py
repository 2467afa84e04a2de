"""Command of the pick room that judges micrographs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from emflow import device as devices
from emflow.io.image import read_image
from emflow.io.journal import Journal, result_key
from emflow.io.micrographs import Micrographs, for_each, load_micrographs
from emflow.io.record import Record
from emflow.io.star import write_star
from emflow.pick.assess import Signs
from emflow.pick.assess import assess as measure
from emflow.pick.config_assess import PickAssess
from emflow.pick.inputs import is_dark
from emflow.pick.judge import as_text, judge, usual_mean
from emflow.step import EmflowError, Run

log = logging.getLogger("emflow")


def assess(micrographs: Path, out: Path, /, *, cfg: PickAssess = PickAssess(), run: Run = Run()) -> None:
    """Say of each micrograph whether it is good, or why not.

    Parameters
    ----------
    micrographs
        STAR table, folder, glob (in quotes) or image; best the table of `ctf fit`, which knows the Thon rings.
    out
        STAR table to write: emflowGood 1 or 0, the reason, and the figures it rests on. `session select --assessed`
        takes it.
    """
    device = devices.prepare(run, gpu=False)
    images = load_micrographs(micrographs, cfg)
    own = PickAssess(diameter_angstrom=cfg.diameter_angstrom)  # all that a measurement depends on

    def work(row: int) -> dict[str, Any]:
        pixel = images.facts(row).pixel_size_angstrom
        if pixel is None:
            raise EmflowError(f"{images.name(row)}: its pixel size is not known.")
        image = torch.from_numpy(read_image(images.name(row))).to(device)
        try:
            found = measure(image, pixel, is_dark(images, row, cfg.contrast), cfg.diameter_angstrom)
        except EmflowError as error:
            raise EmflowError(f"{images.name(row)}: {error}") from None
        return {name: None if np.isnan(value) else value for name, value in vars(found).items()}

    def key(row: int) -> str:
        dark = is_dark(images, row, cfg.contrast)
        return result_key(own, images.identity(row), images.facts(row).pixel_size_angstrom, dark)

    with Record("pick.assess", cfg, run, inputs=[micrographs]) as record:
        journal = Journal(out.with_name(f".{out.stem}.journal"))
        results, set_aside = for_each(images, work, journal, key, run.image_limit_minutes)
        rows = sorted(results)
        signs = [
            Signs(**{name: np.nan if value is None else value for name, value in results[row].items()})
            for row in rows
        ]
        usual = usual_mean(np.array([s.mean for s in signs]), np.array([s.deviation for s in signs]))
        judged = [judge(s, usual, _rings(images, row), cfg) for s, row in zip(signs, rows, strict=True)]
        names = images.table[["rlnMicrographName", "emflowMicrographId"]].iloc[rows].reset_index(drop=True)
        columns = pd.DataFrame([as_text(s, j) for s, j in zip(signs, judged, strict=True)], dtype=object)
        write_star(
            out,
            {
                "optics": images.optics,
                "micrographs": pd.concat([names, columns], axis=1),
                "set_aside": set_aside,
            },
        )
        bad = sum(bool(found) for found in judged)
        record.notes = {"micrographs": len(rows), "bad": bad, "set_aside": len(set_aside)}
        log.info("%d of %d micrographs are bad", bad, len(rows))


def _rings(images: Micrographs, row: int) -> bool | None:
    """Whether the CTF was fitted reliably, if the table tells."""
    if "emflowCtfReliable" not in images.table:
        return None
    return {"0": False, "1": True}.get(str(images.table["emflowCtfReliable"].iloc[row]))

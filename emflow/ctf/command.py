"""Commands of the CTF room: files in, files out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from emflow import device as devices
from emflow.ctf.config import CtfFit, CtfImport
from emflow.ctf.fit import CtfResult, fit_ctf
from emflow.ctf.quality import for_display
from emflow.io.image import read_image
from emflow.io.imported import read_imported_ctf
from emflow.io.journal import Journal, result_key
from emflow.io.micrographs import for_each, load_micrographs
from emflow.io.record import Record
from emflow.io.star import write_star
from emflow.step import Run

COLUMNS = (
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnPhaseShift",
    "rlnCtfMaxResolution",
    "rlnCtfFigureOfMerit",
    "rlnCtfAstigmatism",
    "emflowCtfConfidence",
    "emflowCtfReliable",
)
PROFILE_POINTS = 128
PROFILE_COLUMNS = ("emflowFrequency", "emflowSpectrum", "emflowCtfFit", "emflowCtfCorrelation")


def fit(micrographs: Path, out: Path, /, *, cfg: CtfFit = CtfFit(), run: Run = Run()) -> None:
    """Estimate the CTF of each micrograph.

    Parameters
    ----------
    micrographs
        STAR table, folder, glob (in quotes) or image.
    out
        STAR table to write: RELION's CTF columns, fit resolution, quality. The rings' profiles go to
        ``<out>.profiles.star`` beside it.
    """
    device = devices.prepare(run, gpu=False)
    images = load_micrographs(micrographs, cfg)

    def work(row: int) -> dict[str, Any]:
        pixels = torch.from_numpy(read_image(images.name(row))).to(device)
        facts = images.facts(row)
        return _as_result(fit_ctf(pixels, facts, cfg), cfg)

    def key(row: int) -> str:
        digest = images.table["emflowDigest"].iloc[row] if "emflowDigest" in images.table else ""
        return result_key(cfg, images.identity(row), images.facts(row), digest)

    with Record("ctf.fit", cfg, run, inputs=[micrographs]) as record:
        journal = Journal(out.with_name(f".{out.stem}.journal"))
        results, set_aside = for_each(images, work, journal, key, run.image_limit_minutes)
        rows = sorted(results)
        values = [results[row]["columns"] for row in rows]
        columns = pd.DataFrame(values, columns=pd.Index(COLUMNS), dtype=object)
        kept = images.table.iloc[rows].reset_index(drop=True)
        kept = kept.drop(columns=[name for name in columns if name in kept])
        profiles = [
            [images.identity(row), *point]
            for row in rows
            for point in zip(*results[row]["profile"], strict=True)
        ]
        names = pd.Index(["emflowMicrographId", *PROFILE_COLUMNS])
        write_star(_profiles(out), {"profiles": pd.DataFrame(profiles, columns=names, dtype=object)})
        tables = {"optics": images.optics, "micrographs": pd.concat([kept, columns], axis=1)}
        write_star(out, {**tables, "set_aside": set_aside})
        record.notes = {"micrographs": len(rows), "set_aside": len(set_aside)}


def import_(
    micrographs: Path, ctf: Path, out: Path, /, *, cfg: CtfImport = CtfImport(), run: Run = Run()
) -> None:
    """Take somebody's CTF instead of fitting it.

    Parameters
    ----------
    micrographs
        STAR table, folder, glob (in quotes) or image: the micrographs to which it belongs.
    ctf
        STAR table of RELION, CTFFIND or cryoSPARC with micrographs or particles, matched by base name.
    out
        STAR table to write; micrographs without CTF are set aside.
    """
    with Record("ctf.import", cfg, run, inputs=[micrographs, ctf]) as record:
        tables = read_imported_ctf(ctf, load_micrographs(micrographs, cfg))
        _profiles(out).unlink(missing_ok=True)  # of an earlier fit
        write_star(out, tables)
        record.notes = {name: len(tables[name]) for name in ("micrographs", "set_aside")}


def _profiles(out: Path) -> Path:
    return out.with_name(f"{out.stem}.profiles.star")


def _as_result(result: CtfResult, cfg: CtfFit) -> dict[str, Any]:
    """Text of a fit, as it goes into the STAR tables and the journal."""
    until = 1.15 / result.max_resolution_angstrom if result.reliable else math.inf
    shown = for_display(result.profile, until, PROFILE_POINTS)
    curves = (shown.frequency, shown.power, shown.fit, shown.correlation)
    columns = (
        f"{result.defocus_u_um * 1e4:.2f}",
        f"{result.defocus_v_um * 1e4:.2f}",
        f"{result.defocus_angle_deg:.3f}",
        f"{cfg.phase_shift_deg:g}",
        f"{result.max_resolution_angstrom:.4g}",
        f"{result.figure_of_merit:.4f}",
        f"{(result.defocus_u_um - result.defocus_v_um) * 1e4:.2f}",
        f"{result.confidence:.4f}",
        "1" if result.reliable else "0",
    )
    return {"columns": columns, "profile": [[f"{value:.5g}" for value in curve.tolist()] for curve in curves]}

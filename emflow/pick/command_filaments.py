"""Command of the pick room that finds filaments."""

from __future__ import annotations

import logging
from pathlib import Path, PurePath
from typing import Any

import torch

from emflow import device as devices
from emflow.em.batches import in_batches
from emflow.io.atomic import StepError, write_bytes
from emflow.io.image import read_image
from emflow.io.journal import Journal, result_key
from emflow.io.micrographs import for_each, load_micrographs
from emflow.io.record import Record, verdict, write_metrics, write_verdicts
from emflow.io.star import write_star
from emflow.pick.config_filaments import PickFilaments
from emflow.pick.figure_filaments import filament_figure
from emflow.pick.filaments import pick_filaments, working_width
from emflow.pick.inputs import is_dark
from emflow.pick.outputs import write_mask
from emflow.pick.outputs_filaments import as_result, chosen_rows, figures_of, filament_tables, write_pairs
from emflow.step import EmflowError, OutOfMemory, Run

log = logging.getLogger("emflow")


def filaments(
    micrographs: Path, out: Path, /, *, cfg: PickFilaments = PickFilaments(), run: Run = Run()
) -> None:
    """Find filaments, and places at equal distances along them.

    Parameters
    ----------
    micrographs
        STAR table, folder, glob (in quotes) or image.
    out
        STAR table to write: segments, as `extract run` takes them. Beside it ``NAME_startend`` has the filaments' ends
        as RELION's manual picking writes them, ``NAME_figures`` some micrographs with their filaments, ``masks`` the
        contamination; metrics.json and verdicts.json.
    """
    if cfg.filament_width_angstrom is None:
        raise EmflowError(
            "pick filaments: the filament's width is not set; give --filament-width-angstrom. It is about the "
            "distance between the two edges that the eye sees."
        )
    device = devices.prepare(run, gpu=False)
    images = load_micrographs(micrographs, cfg)
    drawn, pictures = chosen_rows(len(images), cfg), out.with_name(f"{out.stem}_figures")
    same = cfg.model_copy(update={"figures": 0})

    def picture(row: int) -> Path:
        return pictures / f"{PurePath(images.name(row)).stem}_{images.identity(row)}.png"

    def work(row: int) -> dict[str, Any]:
        pixel = images.facts(row).pixel_size_angstrom
        if pixel is None:
            raise EmflowError(f"{images.name(row)}: its pixel size is not known.")
        image = torch.from_numpy(read_image(images.name(row))).to(device)
        dark = is_dark(images, row, cfg.contrast)
        try:
            found = in_batches(lambda _: pick_filaments(image, pixel, dark, cfg), 1, 1, "micrographs")[0]
        except (StepError, OutOfMemory):
            raise
        except EmflowError as error:
            raise EmflowError(f"{images.name(row)}: {error}") from None
        width = working_width(image.shape, pixel, cfg)
        write_mask(out.parent / "masks" / f"{images.identity(row)}.mrc", found.mask, pixel, image.shape)
        if row in drawn:
            write_bytes(picture(row), filament_figure(image, width, found, PurePath(images.name(row)).name))
        return as_result(found, width)

    def key(row: int) -> str:
        digest = images.table["emflowDigest"].iloc[row] if "emflowDigest" in images.table else ""
        dark, facts = is_dark(images, row, cfg.contrast), images.facts(row)
        return result_key(same, images.identity(row), facts, digest, dark, row in drawn)

    with Record("pick.filaments", cfg, run, inputs=[micrographs]) as record:
        if cfg.contrast == "auto" and "emflowContrast" not in images.table:
            log.info(
                "The table does not tell the contrast: protein is taken to be dark (--contrast sets it)."
            )
        journal = Journal(out.with_name(f".{out.stem}.journal"))
        results, set_aside = for_each(images, work, journal, key, run.image_limit_minutes)
        tables = filament_tables(images, results)
        pairs = write_pairs(out.with_name(f"{out.stem}_startend"), images, results)
        write_star(out, {"optics": images.optics, **tables, "set_aside": set_aside})
        metrics = {**figures_of(results), "pairs": pairs, "set_aside": len(set_aside)}
        write_metrics(out.with_name("metrics.json"), metrics)
        write_verdicts(out.with_name("verdicts.json"), [_judged(metrics)])
        record.notes = dict(metrics)


def _judged(metrics: dict[str, float | int | None]) -> dict[str, str]:
    """Whether there are more filaments than noise gives."""
    found, false = metrics["filaments"] or 0, metrics["expected_false_filaments"] or 0.0
    evidence = (
        f"{found} filaments in {metrics['micrographs_with_filaments']} of {metrics['micrographs']} micrographs, median "
        f"length {metrics['median_length_angstrom']} Å, {metrics['segments']} segments; noise is expected to give {false} "
        "at most."
    )
    if found:
        return verdict("Are there filaments?", "pass", evidence)
    action = (
        "Check width, contrast and pixel size. Filaments shorter than min_length_angstrom are not looked for."
    )
    return verdict("Are there filaments?", "warn", evidence, action)

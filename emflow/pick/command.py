"""Commands of the pick room: files in, files out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from emflow import device as devices
from emflow.em.batches import in_batches
from emflow.io.atomic import StepError
from emflow.io.freed import free_images
from emflow.io.image import read_image
from emflow.io.imported import read_imported_picks
from emflow.io.journal import Journal, result_key
from emflow.io.micrographs import Micrographs, for_each, load_micrographs
from emflow.io.record import Record, write_metrics
from emflow.io.star import write_star
from emflow.pick.apply import Picks, pick_micrograph, require_diameter
from emflow.pick.apply_network import pick_with_network
from emflow.pick.config import PickApply, PickImport, PickScore
from emflow.pick.inputs import load_picker, read_intermediate, read_positions, require_denoised
from emflow.pick.outputs import as_result, pick_tables, write_mask
from emflow.pick.score import score_picks
from emflow.step import EmflowError, OutOfMemory, Run

log = logging.getLogger("emflow")

DENOISED_COLUMNS = ("emflowDenoisedName", "emflowKeptVariance")
"""What tells one denoised micrograph from another."""


def apply(
    micrographs: Path,
    out: Path,
    /,
    *,
    free: str = "",
    cfg: PickApply = PickApply(),
    run: Run = Run(),
) -> None:
    """Pick particles in each micrograph.

    Parameters
    ----------
    micrographs
        STAR table, folder, glob (in quotes) or image.
    out
        STAR table to write: coordinates with their probabilities. Masks of contamination go to ``masks`` beside it,
        one small image for each micrograph that has any.
    free
        Remove the denoised images once they have been picked from (unless --keep-denoised), noting that for this
        digest of the settings; `denoise apply --reader` with the same does not make them again.
    """
    device = devices.prepare(run, gpu=False)
    images = load_micrographs(micrographs, cfg)
    if len(images):
        require_diameter(cfg)
    masks, rows = out.parent / "masks", range(len(images))
    picker, weights = load_picker(device) if cfg.method == "network" else (None, "")

    if cfg.pixels == "denoised" and "emflowDenoisedName" not in images.table:
        raise EmflowError(
            f"{micrographs}: pick.apply.pixels is denoised, but the table has no column emflowDenoisedName. Give the "
            "table of `emflow denoise apply`, or set pixels to raw."
        )

    def work(row: int) -> dict[str, Any]:
        pixels = torch.from_numpy(read_image(images.name(row))).to(device)
        pixel_size = images.facts(row).pixel_size_angstrom
        if pixel_size is None:
            raise EmflowError(f"{images.name(row)}: its pixel size is not known.")

        def pick(pixels: torch.Tensor) -> Picks:
            dark = _dark(images, row, cfg)

            def once(_: slice) -> Picks:
                if picker is not None:
                    return pick_with_network(pixels, pixel_size, dark, cfg, picker)
                return pick_micrograph(pixels, pixel_size, dark, cfg)

            # one image at a time: where that does not fit, it is said so, and not laid to the image
            return in_batches(once, 1, 1, "micrographs")[0]

        try:
            picks = pick(pixels)
            if cfg.pixels == "denoised" and len(picks.score):
                # a denoiser makes particles of noise: where raw pixels show none, there are none
                denoised = read_intermediate(images.table["emflowDenoisedName"].iloc[row])
                pixels = torch.from_numpy(denoised).to(device)
                picks = pick(pixels)
        except (StepError, OutOfMemory):
            raise
        except EmflowError as error:
            raise EmflowError(f"{images.name(row)}: {error}") from None
        write_mask(masks / f"{images.identity(row)}.mrc", picks.mask, pixel_size, pixels.shape)
        return as_result(picks)

    def key(row: int) -> str:
        digest = images.table["emflowDigest"].iloc[row] if "emflowDigest" in images.table else ""
        denoised = [Path(images.table[c].iloc[row]).name for c in DENOISED_COLUMNS if c in images.table]
        parts = (
            images.identity(row),
            images.facts(row),
            digest,
            _dark(images, row, cfg),
            denoised,
            *([weights] if weights else []),
        )
        return result_key(cfg, *parts)

    with Record("pick.apply", cfg, run, inputs=[micrographs]) as record:
        if cfg.contrast == "auto" and "emflowContrast" not in images.table:
            log.info(
                "The table does not tell the contrast: protein is taken to be dark (--contrast sets it)."
            )
        journal = Journal(out.with_name(f".{out.stem}.journal"))
        if cfg.pixels == "denoised":
            require_denoised(
                micrographs, images, [journal.get(images.identity(row), key(row)) for row in rows]
            )
        results, set_aside = for_each(images, work, journal, key, run.image_limit_minutes)
        tables = pick_tables(images, results)
        write_star(out, {"optics": images.optics, **tables, "set_aside": set_aside})
        record.notes = {
            "micrographs": len(results),
            "picks": len(tables["particles"]),
            "set_aside": len(set_aside),
        }
        if free and cfg.pixels == "denoised" and not run.keep_denoised:
            names = images.table["emflowDenoisedName"]
            free_images(micrographs, {images.identity(row): Path(names.iloc[row]) for row in results}, free)


def import_(
    micrographs: Path, picks: Path, out: Path, /, *, cfg: PickImport = PickImport(), run: Run = Run()
) -> None:
    """Take somebody's coordinates instead of picking.

    Parameters
    ----------
    micrographs
        STAR table, folder, glob (in quotes) or image: the micrographs to which they belong.
    picks
        Particle STAR, or RELION's list of coordinate files, matched by base name.
    out
        STAR table to write.
    """
    with Record("pick.import", cfg, run, inputs=[micrographs, picks]) as record:
        images = load_micrographs(micrographs, cfg)
        tables = read_imported_picks(picks, images)
        write_star(out, {"optics": images.optics, **tables})
        record.notes = {name: len(table) for name, table in tables.items()}


def score(
    picks: Path, positions: Path, out: Path, /, *, cfg: PickScore = PickScore(), run: Run = Run()
) -> None:
    """Compare picks with known positions: precision, recall, F1 and the area under the precision-recall curve.

    Parameters
    ----------
    picks
        Particle STAR, CSV, or a folder with one CSV or STAR per micrograph.
    positions
        Known positions, likewise. Micrographs that they do not name are left out.
    out
        JSON file to write.
    """
    with Record("pick.score", cfg, run, inputs=[picks, positions]) as record:
        metrics = score_picks(read_positions(picks), read_positions(positions), cfg.radius_px)
        write_metrics(out, metrics)
        print(json.dumps(metrics, indent=1))
        record.notes = dict(metrics)


def _dark(images: Micrographs, row: int, cfg: PickApply) -> bool:
    """Whether protein is dark: as set, or as the session found out."""
    if cfg.contrast != "auto":
        return cfg.contrast == "dark"
    found = str(images.table["emflowContrast"].iloc[row]) if "emflowContrast" in images.table else "dark"
    return found != "bright"

"""Commands of the pick room: files in, files out."""

from __future__ import annotations

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
from emflow.io.micrographs import for_each, load_micrographs
from emflow.io.record import Record
from emflow.io.star import write_star
from emflow.pick.apply import Picks, pick_micrograph, require_diameter
from emflow.pick.apply_classical import pick_log, pick_with_references
from emflow.pick.apply_labels import pick_learned
from emflow.pick.apply_network import pick_with_network
from emflow.pick.command_assess import assess
from emflow.pick.command_filaments import filaments
from emflow.pick.command_learn import train
from emflow.pick.command_size import size
from emflow.pick.command_tools import consensus, export, score
from emflow.pick.config import PickApply, PickImport
from emflow.pick.inputs import is_dark, read_intermediate, require_denoised
from emflow.pick.inputs_classical import References
from emflow.pick.inputs_learn import load_picker
from emflow.pick.inputs_network import load_general
from emflow.pick.outputs import as_result, pick_tables, write_mask
from emflow.step import EmflowError, OutOfMemory, Run

__all__ = ["apply", "assess", "consensus", "export", "filaments", "import_", "score", "size", "train"]

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
    learned = load_picker(cfg.weights, device) if cfg.weights else None
    general = load_general(device) if cfg.method == "network" and not learned else None
    references = References(cfg, images, device) if cfg.method == "references" and not learned else None
    if learned and cfg.diameter_angstrom is None:
        cfg = cfg.model_copy(update={"diameter_angstrom": learned.diameter_angstrom})
    if len(images):
        require_diameter(cfg)
    masks, rows = out.parent / "masks", range(len(images))

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
            dark = is_dark(images, row, cfg.contrast)

            def once(_: slice) -> Picks:
                if learned:
                    return pick_learned(pixels, pixel_size, dark, cfg, learned)
                if general:
                    return pick_with_network(pixels, pixel_size, dark, cfg, general)
                if references:
                    seen = references.at(row, pixels.shape)
                    return pick_with_references(pixels, pixel_size, dark, cfg, seen)
                if cfg.method == "log":
                    return pick_log(pixels, pixel_size, dark, cfg)
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
            is_dark(images, row, cfg.contrast),
            denoised,
        )
        told = references.key(row) if references else []
        return result_key(cfg, *parts, *told, *(picker.sha256 for picker in (learned, general) if picker))

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
            "thresholds_from": tables["micrographs"]["emflowPickThresholdFrom"].value_counts().to_dict(),
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
        Particle STAR, RELION's list of coordinate files, CSV, EMAN box or Topaz text, or a folder of such files; matched
        by base name.
    out
        STAR table to write.
    """
    with Record("pick.import", cfg, run, inputs=[micrographs, picks]) as record:
        images = load_micrographs(micrographs, cfg)
        tables = read_imported_picks(picks, images)
        write_star(out, {"optics": images.optics, **tables})
        record.notes = {name: len(table) for name, table in tables.items()}

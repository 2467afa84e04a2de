"""The command that asks independent data what of the denoised micrographs they bear out."""

from __future__ import annotations

import functools
import logging
import operator
from pathlib import Path

from emflow import device as devices
from emflow.denoise.config import DenoiseCheck
from emflow.denoise.figures import draw_trust
from emflow.denoise.inputs import is_bright, load_model, load_tables, spread_over
from emflow.denoise.inputs_check import evidence_of, read_pairs
from emflow.denoise.outputs_check import Asked, check_metrics, check_verdicts, evidence_table, spectra_table
from emflow.denoise.similarity import consecutive_similarity
from emflow.denoise.trust import compared, denoised_of
from emflow.figure import png_bytes
from emflow.io.atomic import write_bytes
from emflow.io.record import Record, write_metrics, write_verdicts
from emflow.io.star import write_star
from emflow.step import EmflowError, Run

log = logging.getLogger("emflow")


def check(
    *paths: Path,
    even: str | None = None,
    odd: str | None = None,
    cfg: DenoiseCheck = DenoiseCheck(),
    run: Run = Run(),
) -> None:
    """Ask independent data of the same micrographs what of the denoised ones they bear out. No image is written.

    Parameters
    ----------
    paths
        STAR tables (shards), a folder or a glob (in quotes), and last the folder to write: micrographs.star,
        spectra.star, trust.png, metrics.json, verdicts.json.
    even, odd
        Patterns of the half sums' paths where no table names them, with {name} for a micrograph's base name.
    """
    if len(paths) < 2:
        raise EmflowError("denoise check: give micrographs, and last the folder to write to.")
    *sources, out = paths
    device = devices.prepare(run)
    listed = spread_over(load_tables(sources, cfg, even, odd), cfg.max_micrographs)
    network, scale, model = load_model(cfg.weights, device)
    with Record("denoise.check", cfg, run, inputs=sources) as record:
        found: dict[int, Asked] = {}
        for row in range(len(listed)):
            kind = evidence_of(listed, row, scale, cfg.evidence)
            bright = is_bright(listed, row, cfg.contrast)
            try:
                pairs = list(read_pairs(listed, row, scale, cfg, device))
                images = [denoised_of(pair, network, cfg.tile_px, bright) for pair in pairs]
                spectra = [
                    compared(pair.seen, pair.witness, image, pair.pixel_angstrom, scale)
                    for pair, image in zip(pairs, images, strict=True)
                ]
            except EmflowError as error:
                log.warning("left out: %s: %s", listed.name(row), error)
                continue
            # of one image with noise added twice, both hold its own noise: their likeness says nothing
            alike = [consecutive_similarity(a, b) for a, b in (images, [pair.seen for pair in pairs])]
            similar = (alike[0], alike[1]) if kind != "split" else None
            found[row] = Asked(kind, functools.reduce(operator.add, spectra), similar)
        if not found:
            raise EmflowError(f"denoise check: none of {len(listed)} micrographs could be read.")
        total = functools.reduce(operator.add, (one.spectra for one in found.values()))
        metrics = check_metrics(found, total, scale)
        table = evidence_table(listed.table, found)
        write_star(out / "micrographs.star", {"optics": listed.optics, "micrographs": table})
        write_star(out / "spectra.star", {"spectra": spectra_table(total, scale)})
        write_bytes(out / "trust.png", png_bytes(draw_trust(total, scale)))
        write_metrics(out / "metrics.json", metrics)
        write_verdicts(out / "verdicts.json", check_verdicts(total, scale))
        record.notes = dict(metrics) | {"weights": model.sha256}

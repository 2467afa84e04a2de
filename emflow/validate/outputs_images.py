"""Write what the raw images say, and stacks of a noise control."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pandas as pd
import torch

from emflow.device import generator
from emflow.io.mrc import CONTROL_LABEL
from emflow.io.particles import Particles, read_images
from emflow.io.record import write_metrics
from emflow.io.stack import GrowingStack
from emflow.io.star import write_star
from emflow.step import EmflowError, Judgement
from emflow.validate.finding import Finding
from emflow.validate.images import Agreement
from emflow.validate.noise_control import ring_of, substitute_noise
from emflow.validate.outliers import Outliers
from emflow.validate.outputs import write_finding

log = logging.getLogger("emflow")

_BATCH = 256


def write_images(
    out: Path, source: Particles, found: Finding, agreement: Agreement, outliers: Outliers, voxel: float
) -> None:
    """Write the finding, the particles with their agreement, and the outliers, worst first."""
    rings = agreement.rings
    extent = rings.box * rings.voxel_size_angstrom
    columns = {
        "emflowMapAgreement": [f"{value:.4f}" for value in agreement.score.tolist()],
        "emflowMapDeviation": [f"{value:.4f}" for value in outliers.deviation.tolist()],
    }
    table = source.table.assign(**columns).astype(object)
    order = torch.argsort(outliers.deviation, stable=True).numpy()
    chosen = order[outliers.reason[order] != ""]
    listed = table.iloc[chosen].assign(emflowReason=outliers.reason[chosen])
    curves = pd.DataFrame(
        {
            "rlnSpectralIndex": range(len(rings.own)),
            "rlnResolution": [i / extent for i in range(len(rings.own))],
            "emflowRingCorrelationHeldOut": rings.held_out.numpy(),
            "emflowRingCorrelationHeldOutError": rings.held_out_error.numpy(),
            "emflowRingCorrelationOwn": rings.own.numpy(),
            "emflowRingCorrelationOwnError": rings.own_error.numpy(),
            "emflowRingCorrelationDifferenceError": rings.difference_error.numpy(),
        }
    )
    write_star(out / "rings.star", {"rings": curves})
    write_star(out / "outliers.star", {"optics": source.optics, "particles": listed})
    write_star(out / "particles.star", {"optics": source.optics, "particles": table})
    write_finding(out, found, voxel)


def write_few_images(out: Path, source: Particles) -> None:
    """Write the results of a set with too few particles to ask, or without maps."""
    empty = source.table.iloc[:0]
    write_star(out / "rings.star", {"rings": pd.DataFrame(columns=pd.Index(["rlnSpectralIndex"]))})
    write_star(out / "outliers.star", {"optics": source.optics, "particles": empty})
    write_star(out / "particles.star", {"optics": source.optics, "particles": source.table})
    told = Judgement(
        "Do the images agree with a map that they did not make?",
        "unknown",
        f"{len(source)} particles, or no map: too little to ask.",
        "Pick and extract more particles.",
    )
    write_finding(out, Finding([told], {"particles": len(source)}), 1.0)


def write_control(out: Path, star: Path, source: Particles, from_angstrom: float, seed: int) -> None:
    """Write the particles with random phases beyond a resolution, a batch at a time, resuming where a run ended.

    Raises
    ------
    EmflowError
        If the resolution is not coarser than the images' pixels can show.
    """
    if not len(source):
        write_star(out / "particles.star", {"optics": source.optics, "particles": source.table})
        write_metrics(out / "metrics.json", {"particles": 0, "from_angstrom": from_angstrom})
        return
    facts = source.common_facts()
    shell = ring_of(from_angstrom, facts.box_px, facts.pixel_size_angstrom)
    if not 1 <= shell < facts.box_px // 2 - 2:
        raise EmflowError(
            f"Phases are to be random beyond {from_angstrom:g} Å, but images of {facts.box_px} px at "
            f"{facts.pixel_size_angstrom:g} Å show {2 * facts.pixel_size_angstrom:g} to "
            f"{facts.box_px * facts.pixel_size_angstrom:g} Å. Give another --from-angstrom."
        )
    stack = out / "particles.mrcs"
    identity = hashlib.sha256(star.read_bytes()).hexdigest()
    starts = range(0, len(source), _BATCH)
    growing = GrowingStack(stack, facts.box_px, facts.pixel_size_angstrom, (CONTROL_LABEL,))
    keys = [f"{identity} {shell} {seed} {start}" for start in starts]
    done = len(growing.resume(keys))
    for key, start in list(zip(keys, starts, strict=True))[done:]:
        rows = torch.arange(start, min(start + _BATCH, len(source))).numpy()
        images = torch.from_numpy(read_images(source, rows))
        growing.append(key, substitute_noise(images, shell, generator(seed, 9, start)).numpy(), None)
    growing.finish()
    table = source.table.assign(
        rlnImageName=[f"{row + 1:06d}@{stack}" for row in range(len(source))],
        emflowNoiseControl=f"{from_angstrom:.4f}",
    ).astype(object)
    write_metrics(out / "metrics.json", {"particles": len(source), "from_angstrom": from_angstrom})
    write_star(out / "particles.star", {"optics": source.optics, "particles": table})
    log.info("%d images with random phases beyond %.1f Å, marked as a control", len(source), from_angstrom)

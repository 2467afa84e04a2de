"""Commands of the vem room: files in, files out."""

from __future__ import annotations

import hashlib
import logging
import shlex
import sys
from pathlib import Path

import numpy as np
import torch

from emflow import device as devices
from emflow.io.journal import result_key
from emflow.io.listing import stat_file
from emflow.io.record import Record, write_metrics, write_verdicts
from emflow.io.volume import Volume, open_volume
from emflow.nn.unet import on_device
from emflow.nn.weights import CheckpointFile, write_model
from emflow.step import EmflowError, Run
from emflow.vem.blocks import Block, blocks_of
from emflow.vem.command_check import check
from emflow.vem.config import VemRestore, VemScore, VemTrain
from emflow.vem.grid import TOLERANCE, Grid
from emflow.vem.heldout import FEWEST, hold_out
from emflow.vem.inputs import DOUBLED, KIND, grid_of, read_doubled, read_filler, to_tensor, voxel_of
from emflow.vem.inputs_slices import Measured
from emflow.vem.lacking import Lacking
from emflow.vem.model import Filler
from emflow.vem.outputs import stored, training_metrics, training_verdicts
from emflow.vem.outputs_images import Image, Images, chunks_of
from emflow.vem.outputs_restored import restoring_metrics, restoring_verdicts, slice_metrics, slice_notes
from emflow.vem.outputs_slices import tells
from emflow.vem.restore import restore_block
from emflow.vem.score import axial_resolution, axial_spectra, high_frequency_power, psnr, ssim
from emflow.vem.tell import lacking_of, told_of
from emflow.vem.train import interval_factor, residual_spread, train_filler

log = logging.getLogger("emflow")

__all__ = ["check", "restore", "score", "train"]

_UNSEEN = 8
"""Every so-manieth slice is kept from the training, for the interval."""


def train(
    volume: Path,
    out: Path,
    /,
    *,
    slices: Path | None = None,
    cfg: VemTrain = VemTrain(),
    run: Run = Run(),
) -> None:
    """Learn from a volume's own slices to fill the gaps between them. No isotropic data is needed.

    Parameters
    ----------
    volume
        TIFF stack or folder, MRC, HDF5 (FILE:/NAME), N5, Zarr or OME-Zarr.
    out
        Folder to write: model.safetensors, its manifest model.json, metrics.json, verdicts.json; and
        doubled.safetensors, the network of the held-out test, which fills the gaps about single absent slices.
    slices
        Table from vem check: what it does not use is not learned from.
    """
    device = devices.prepare(run)
    source = open_volume(volume)
    grid = grid_of(source, voxel_of(source, cfg))
    with Record("vem.train", cfg, run, inputs=[volume, *([slices] if slices else [])]) as record:
        measured = Measured.of(source, slices, align=cfg.align, normalise=cfg.normalise)
        pixels, used = measured.learned(cfg.max_slices, cfg.max_side_px)
        mean, deviation = float(pixels[used].mean()), float(pixels[used].std(correction=0))
        if deviation == 0:
            raise EmflowError(f"{volume}: its middle is constant; there is nothing to learn from.")
        pixels = (pixels - mean) / deviation
        unseen = used & (used.cumsum(0) % _UNSEEN == _UNSEEN // 2 + 1)
        if not unseen.any():
            unseen[used.nonzero()[-1]] = True
        learned = pixels[used & ~unseen]
        if not len(learned):
            raise EmflowError(f"{volume}: {int(used.sum())} slices to learn from; expected at least 2.")
        filler = _begin(grid, 1, mean, deviation, cfg, device)
        filler.spread = residual_spread(learned, grid.factor, cfg, grid.stretch)
        key = result_key(cfg, grid, _identity(source), _digest(slices))
        checkpoint = CheckpointFile(out / ".checkpoint.safetensors", key)
        filler.network = train_filler(filler, learned, cfg, device, checkpoint)
        filler.quantile = interval_factor(filler, pixels[unseen], cfg, device)
        held_out = None
        for left in (DOUBLED, "doubled.json"):  # of an earlier training
            (out / left).unlink(missing_ok=True)
        if cfg.held_out and len(pixels) >= FEWEST:
            doubled = _begin(grid, 2, mean, deviation, cfg, device)
            held_out = hold_out(pixels, doubled, cfg, device, used=used)
            if held_out is not None:
                filler.quantile *= held_out.widening
                _write(out / DOUBLED, doubled, cfg, {})
        told = told_of(measured, cfg.coverage)
        metrics = training_metrics(grid.factor, held_out, filler.quantile, filler.spread)
        metrics |= slice_metrics(measured, told)
        write_metrics(out / "metrics.json", metrics)
        write_verdicts(out / "verdicts.json", [*training_verdicts(held_out), tells(told)])
        _write(out / "model.safetensors", filler, cfg, metrics)
        checkpoint.remove()
        record.notes = dict(metrics)


def _begin(
    grid: Grid, times: int, mean: float, deviation: float, cfg: VemTrain, device: torch.device
) -> Filler:
    """A filler for gaps of so many times the slices' distance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        ratio = None if grid.whole else times * grid.ratio
        filler = Filler.begin(times * grid.factor, mean, deviation, 1.0, ratio)
    on_device(filler.network, device)
    return filler


def _write(weights: Path, filler: Filler, cfg: VemTrain, metrics: dict[str, float | int | None]) -> None:
    write_model(
        weights,
        filler.network.state_dict(),
        {"kind": KIND, "factor": filler.factor},
        licence="not stated",
        recipe=[shlex.join(["emflow", *sys.argv[1:]])],
        facts={
            "mean": filler.mean,
            "deviation": filler.deviation,
            "spread": filler.spread,
            "quantile": filler.quantile,
            "ratio": filler.ratio,
            "coverage": cfg.coverage,
            "settings": cfg.model_dump(mode="json"),
            "metrics": metrics,
        },
    )


def _identity(volume: Volume) -> str:
    """What tells one input from another without reading it: of a folder its own time stands for its files'."""
    found = stat_file(str(volume.path))
    return found.identity if found else f"{volume.path.name} {volume.shape} {volume.path.stat().st_mtime_ns}"


def _digest(path: Path | None) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""


def restore(
    volume: Path,
    model: Path,
    out: Path,
    error: Path,
    /,
    *,
    mask: Path | None = None,
    slices: Path | None = None,
    report: Path | None = None,
    cfg: VemRestore = VemRestore(),
    run: Run = Run(),
) -> None:
    """Fill the gaps between slices, block by block: the result is isotropic, the measured slices stay as they are.

    A run that was killed goes on with the block that it was at.

    Parameters
    ----------
    volume
        TIFF stack or folder, MRC, HDF5 (FILE:/NAME), N5, Zarr or OME-Zarr.
    model
        Folder or weights from vem train.
    out, error
        Images to write: the restored volume, and the half-width of the interval about each voxel, in units of its
        intensities. OME-Zarr, or one file where the name ends in .tif or .mrc.
    mask
        Image to write: 1 where the half-width exceeds max_error, so that the voxel is not to be relied upon.
    slices
        Table from vem check: what it does not use is filled like what is missing; the others are moved into register.
    report
        Folder to write: metrics.json, verdicts.json.
    """
    device = devices.prepare(run)
    source = open_volume(volume)
    measured = Measured.of(source, slices, align=cfg.align, normalise=cfg.normalise)
    voxel = voxel_of(source, cfg)
    grid = grid_of(source, voxel)
    filler, weights = read_filler(model, device)
    if filler.factor != grid.factor or abs(filler.grid.ratio / grid.ratio - 1) > TOLERANCE:
        raise EmflowError(
            f"{model}: fills gaps of {filler.grid.ratio:g}; {volume} has slices {grid.ratio:g} pixels apart."
        )
    coverage = float(weights.facts["coverage"])
    with Record("vem.restore", cfg, run, inputs=[volume, model, *([slices] if slices else [])]) as record:
        doubled = None if all(measured.used) else read_doubled(model, filler, device)
        told = told_of(measured, coverage)
        lacking = lacking_of(measured, doubled, told, coverage)
        sides, blocks = blocks_of(
            measured.shape,
            (cfg.block_slices, cfg.block_px, cfg.block_px),
            filler.network,
            filler.grid,
            doubled is not None,
        )
        limit = cfg.max_error * (told.deviation if told else filler.deviation)
        notes = {
            "made_by": "vem.restore",
            "weights": weights.sha256,
            "input": _identity(source),
            "slices": _digest(slices),
            **slice_notes(measured, filler.grid),
        }
        places = Images(
            (filler.grid.slices(len(measured.slices)), *measured.shape[1:]),
            (voxel[0] / grid.factor if grid.whole else voxel[2], voxel[1], voxel[2]),
            chunks_of(sides),
            notes,
        )
        images = [places.create(out, source.dtype, "restored")]
        images.append(places.create(error, source.dtype, f"{coverage:g} interval, half-width"))
        if mask is not None:
            images.append(
                places.create(mask, np.dtype(np.uint8), f"1 where the half-width exceeds {limit:g}")
            )
        # within the images, so that an image that is made anew begins without one
        journals = [image.journal for image in images]
        key = result_key(cfg, notes, sides, limit)
        counts: list[dict[str, float]] = []
        for block in blocks:
            count, *others = (journal.get(str(block.number), key) for journal in journals)
            if count is None or None in others:
                count = _restore(measured, filler, block, lacking, limit, images, device)
                for journal in journals:
                    journal.put(str(block.number), key, count)
            counts.append(count)
        for image in images:
            image.finish()
        for image in images:
            image.tidy()
        metrics = restoring_metrics(counts, measured, lacking, told)
        if report is not None:
            write_metrics(report / "metrics.json", metrics)
            write_verdicts(
                report / "verdicts.json", [*restoring_verdicts(metrics, cfg.max_error), tells(told)]
            )
        record.notes = {"blocks": len(blocks), "weights": weights.sha256, **metrics}


def _restore(
    measured: Measured,
    filler: Filler,
    block: Block,
    lacking: Lacking | None,
    limit: float,
    images: list[Image],
    device: torch.device,
) -> dict[str, float]:
    slices = measured.read(*block.seen).to(device)
    found = restore_block(filler, slices, block, lacking)
    at = block.region
    dtype = measured.volume.dtype
    images[0].level[at] = stored(found.values, dtype)
    images[1].level[at] = stored(found.error, dtype, up=True)
    for image in images[2:]:
        image.level[at] = (found.error > limit).cpu().numpy().astype(np.uint8)
    filled = found.error > 0
    return {
        "filled": int(filled.sum()),
        "abstained": int((found.error > limit).sum()),
        "half_widths": float(found.error.double().sum()),
    }


def score(
    restored: Path,
    truth: Path,
    out: Path,
    /,
    *,
    error: Path | None = None,
    cfg: VemScore = VemScore(),
    run: Run = Run(),
) -> None:
    """Compare a restored volume with the true one, and its stated error with what it misses.

    Parameters
    ----------
    restored, truth
        Volumes of one shape; a truth with more slices is cut.
    out
        JSON file of the figures.
    error
        The half-widths that vem restore wrote.
    """
    found, true = open_volume(restored), open_volume(truth)
    depth = found.shape[0]
    if found.shape[1:] != true.shape[1:] or true.shape[0] < depth:
        raise EmflowError(f"{restored}: shape {found.shape}, {truth}: {true.shape}; expected one shape.")
    with Record("vem.score", cfg, run, inputs=[restored, truth]) as record:
        whole = slice(0, depth), slice(None), slice(None)
        values = to_tensor(found.read(), found.path, torch.device("cpu"))
        target = to_tensor(true.read(whole), true.path, torch.device("cpu"))
        filled = (
            torch.arange(depth) % cfg.factor != 0 if cfg.factor > 1 else torch.ones(depth, dtype=torch.bool)
        )
        peak = float(target.max() - target.min())
        frequency, correlation, power = axial_spectra(values.permute(1, 0, 2), target.permute(1, 0, 2))
        metrics: dict[str, float | int | None] = {
            "psnr_db": psnr(values[filled], target[filled], peak),
            "ssim_xz": ssim(values.permute(1, 0, 2), target.permute(1, 0, 2), peak),
            "axial_resolution_voxels": axial_resolution(frequency, correlation),
            "high_frequency_power": high_frequency_power(frequency, power),
            "coverage": None,
        }
        if error is not None:
            width = to_tensor(open_volume(error).read(), error, torch.device("cpu"))
            inside = (values - target).abs()[filled] <= width[filled]
            metrics["coverage"] = float(inside.float().mean())
        write_metrics(out, metrics)
        record.notes = dict(metrics)

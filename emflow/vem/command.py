"""Commands of the vem room: files in, files out."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path

import numpy as np
import torch

from emflow import device as devices
from emflow.io.journal import Journal, result_key
from emflow.io.listing import stat_file
from emflow.io.ome import create_image, write_pyramid
from emflow.io.record import Record, write_metrics, write_verdicts
from emflow.io.volume import Volume, open_volume
from emflow.nn.unet import on_device
from emflow.nn.weights import CheckpointFile, write_model
from emflow.step import EmflowError, Run
from emflow.vem.blocks import Block, blocks_of
from emflow.vem.command_images import denoise, train_images
from emflow.vem.config import VemRestore, VemScore, VemTrain
from emflow.vem.heldout import FEWEST, hold_out
from emflow.vem.inputs import KIND, factor_of, read_filler, read_middle, to_tensor, voxel_of
from emflow.vem.model import Filler
from emflow.vem.outputs import chunk_side, stored, training_metrics, training_verdicts
from emflow.vem.restore import restore_block
from emflow.vem.score import axial_resolution, axial_spectra, high_frequency_power, psnr, ssim
from emflow.vem.train import interval_factor, residual_spread, train_filler

__all__ = ["denoise", "restore", "score", "train", "train_images"]

log = logging.getLogger("emflow")

_UNSEEN = 8
"""Every so-manieth slice is kept from the training, for the interval."""


def train(volume: Path, out: Path, /, *, cfg: VemTrain = VemTrain(), run: Run = Run()) -> None:
    """Learn from a volume's own slices to fill the gaps between them. No isotropic data is needed.

    Parameters
    ----------
    volume
        TIFF stack or folder, MRC, HDF5 (FILE:/NAME), Zarr or OME-Zarr.
    out
        Folder to write: model.safetensors, its manifest model.json, metrics.json, verdicts.json.
    """
    device = devices.prepare(run)
    source = open_volume(volume)
    factor = factor_of(source, voxel_of(source, cfg))
    with Record("vem.train", cfg, run, inputs=[volume]) as record:
        pixels = read_middle(source, cfg.max_slices, cfg.max_side_px)
        mean, deviation = float(pixels.mean()), float(pixels.std())
        if deviation == 0:
            raise EmflowError(f"{volume}: its middle is constant; there is nothing to learn from.")
        slices = torch.from_numpy((pixels - mean) / deviation)
        unseen = torch.arange(len(slices)) % _UNSEEN == _UNSEEN // 2
        if not unseen.any():
            unseen[-1] = True
        learned = slices[~unseen]
        if not len(learned):
            raise EmflowError(f"{volume}: {len(slices)} slices; expected at least 2.")
        filler = _begin(factor, mean, deviation, cfg, device)
        filler.spread = residual_spread(learned, factor, cfg)
        checkpoint = CheckpointFile(
            out / ".checkpoint.safetensors", result_key(cfg, factor, _identity(source))
        )
        filler.network = train_filler(filler, learned, cfg, device, checkpoint)
        filler.quantile = interval_factor(filler, slices[unseen], cfg, device)
        held_out = None
        if cfg.held_out and len(slices) >= FEWEST:
            held_out = hold_out(slices, _begin(2 * factor, mean, deviation, cfg, device), cfg, device)
            filler.quantile *= held_out.widening
        metrics = training_metrics(factor, held_out, filler.quantile, filler.spread)
        write_metrics(out / "metrics.json", metrics)
        write_verdicts(out / "verdicts.json", training_verdicts(held_out))
        write_model(
            out / "model.safetensors",
            filler.network.state_dict(),
            {"kind": KIND, "factor": factor},
            licence="not stated",
            recipe=[shlex.join(["emflow", *sys.argv[1:]])],
            facts={
                "mean": mean,
                "deviation": deviation,
                "spread": filler.spread,
                "quantile": filler.quantile,
                "coverage": cfg.coverage,
                "settings": cfg.model_dump(mode="json"),
                "metrics": metrics,
            },
        )
        checkpoint.remove()
        record.notes = dict(metrics)


def _begin(factor: int, mean: float, deviation: float, cfg: VemTrain, device: torch.device) -> Filler:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        filler = Filler.begin(factor, mean, deviation, 1.0)
    on_device(filler.network, device)
    return filler


def _identity(volume: Volume) -> str:
    """What tells one input from another without reading it: of a folder its own time stands for its files'."""
    found = stat_file(str(volume.path))
    return found.identity if found else f"{volume.path.name} {volume.shape} {volume.path.stat().st_mtime_ns}"


def restore(
    volume: Path,
    model: Path,
    out: Path,
    error: Path,
    /,
    *,
    cfg: VemRestore = VemRestore(),
    run: Run = Run(),
) -> None:
    """Fill the gaps between slices, block by block: the result is isotropic, the measured slices stay as they are.

    A run that was killed goes on with the block that it was at.

    Parameters
    ----------
    volume
        TIFF stack or folder, MRC, HDF5 (FILE:/NAME), Zarr or OME-Zarr.
    model
        Folder or weights from vem train.
    out, error
        OME-Zarr images to write: the restored volume, and the half-width of the interval about each voxel, in
        units of its intensities.
    """
    device = devices.prepare(run)
    source = open_volume(volume)
    voxel = voxel_of(source, cfg)
    factor = factor_of(source, voxel)
    filler, weights = read_filler(model, device)
    if filler.factor != factor:
        raise EmflowError(
            f"{model}: fills gaps of {filler.factor}; {volume} has slices {factor} pixels apart."
        )
    with Record("vem.restore", cfg, run, inputs=[volume, model]) as record:
        sides, blocks = blocks_of(
            source.shape, (cfg.block_slices, cfg.block_px, cfg.block_px), filler.network
        )
        shape = ((source.shape[0] - 1) * factor + 1, *source.shape[1:])
        chunk = chunk_side(sides[0] * factor), chunk_side(sides[1]), chunk_side(sides[2])
        notes = {"made_by": "vem.restore", "weights": weights.sha256, "input": _identity(source)}
        isotropic = voxel[0] / factor, voxel[1], voxel[2]
        images = [
            create_image(path, shape, source.dtype, isotropic, chunk, {**notes, "content": content})
            for path, content in (
                (out, "restored"),
                (error, f"{weights.facts['coverage']:g} interval, half-width"),
            )
        ]
        # within the images, so that an image that is made anew begins without one
        journals = [Journal(path / ".blocks.journal") for path in (out, error)]
        key = result_key(cfg, notes, chunk)
        for block in blocks:
            if any(journal.get(str(block.number), key) is None for journal in journals):
                _restore(source, filler, block, images, device)
                for journal in journals:
                    journal.put(str(block.number), key, True)
        for path in (out, error):
            write_pyramid(path)
        record.notes = {"blocks": len(blocks), "voxels": int(np.prod(shape)), "weights": weights.sha256}


def _restore(source: Volume, filler: Filler, block: Block, images: list, device: torch.device) -> None:
    slices = to_tensor(source.read(block.region(block.seen)), source.path, device)
    found = restore_block(filler, slices, block)
    first = block.core[0][0] * filler.factor
    _, rows, columns = block.region(block.core)
    at = slice(first, first + len(found.values)), rows, columns
    images[0][at] = stored(found.values, source.dtype)
    images[1][at] = stored(found.error, source.dtype, up=True)


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

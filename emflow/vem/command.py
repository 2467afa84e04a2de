"""Commands of the vem room: files in, files out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import torch

from emflow import device as devices
from emflow.io.journal import result_key
from emflow.io.record import Record, write_metrics, write_verdicts
from emflow.io.volume import open_volume, volume_identity
from emflow.nn.unet import on_device
from emflow.nn.weights import CheckpointFile, write_model
from emflow.step import EmflowError, Run
from emflow.vem.command_check import check
from emflow.vem.command_images import denoise, train_images
from emflow.vem.command_pretrain import pretrain
from emflow.vem.command_restore import begin, fill, finish, parts, restore
from emflow.vem.command_sample import sample, train_sampler
from emflow.vem.command_segment import score_segments, segment, train_membranes
from emflow.vem.config import VemScore, VemTrain
from emflow.vem.grid import Grid
from emflow.vem.heldout import FEWEST, hold_out
from emflow.vem.inputs import DOUBLED, KIND, first_weights, grid_of, read_like, to_tensor, voxel_of
from emflow.vem.inputs_slices import Measured, table_digest
from emflow.vem.model import Filler
from emflow.vem.outputs import training_metrics, training_verdicts
from emflow.vem.outputs_restored import slice_metrics
from emflow.vem.outputs_slices import tells
from emflow.vem.score import axial_resolution, axial_spectra, high_frequency_power, psnr, ssim
from emflow.vem.tell import told_of
from emflow.vem.train import interval_factor, residual_spread, train_filler

__all__ = [
    "begin",
    "check",
    "denoise",
    "fill",
    "finish",
    "parts",
    "pretrain",
    "restore",
    "sample",
    "score",
    "score_segments",
    "segment",
    "train",
    "train_images",
    "train_membranes",
    "train_sampler",
]

_UNSEEN = 8
"""Every so-manieth slice is kept from the training, for the interval."""


def train(
    volume: Path,
    out: Path,
    /,
    *,
    slices: Path | None = None,
    isotropic: Path | None = None,
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
    isotropic
        An isotropic volume of like tissue, with the pixels of the slices, to learn from as well.
    """
    device = devices.prepare(run)
    source = open_volume(volume)
    voxel = voxel_of(source, cfg)
    grid = grid_of(source, voxel)
    given = [path for path in (volume, slices, isotropic) if path]
    with Record("vem.train", cfg, run, inputs=given) as record:
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
        filler, begun_from = _begin(grid, 1, mean, deviation, cfg, device)
        filler.spread = residual_spread(learned, grid.factor, cfg, grid.stretch)
        other = read_like(isotropic, voxel[2], grid, cfg) if isotropic else None
        key = result_key(
            cfg, grid, volume_identity(source), table_digest(slices), begun_from, other and other.spreads
        )
        checkpoint = CheckpointFile(out / ".checkpoint.safetensors", key)
        filler.network = train_filler(filler, learned, cfg, device, checkpoint, other)
        filler.quantile = interval_factor(filler, pixels[unseen], cfg, device)
        held_out = None
        doubled, doubled_from = _begin(grid, 2, mean, deviation, cfg, device)
        if cfg.held_out and len(pixels) >= FEWEST and (cfg.steps or doubled_from != "scratch"):
            held_out = hold_out(pixels, doubled, cfg, device, used=used)
        for left in (DOUBLED, "doubled.json"):  # of an earlier training
            (out / left).unlink(missing_ok=True)
        if held_out is not None:
            filler.quantile *= held_out.widening
            _write(out / DOUBLED, doubled, cfg, doubled_from, {})
        told = told_of(measured, cfg.coverage)
        metrics = training_metrics(grid.factor, held_out, filler.quantile, filler.spread)
        metrics |= slice_metrics(measured, told)
        write_metrics(out / "metrics.json", metrics)
        write_verdicts(out / "verdicts.json", [*training_verdicts(held_out), tells(told)])
        _write(out / "model.safetensors", filler, cfg, begun_from, metrics)
        checkpoint.remove()
        record.notes = dict(metrics)


def _begin(
    grid: Grid, times: int, mean: float, deviation: float, cfg: VemTrain, device: torch.device
) -> tuple[Filler, str]:
    """A filler for gaps of so many times the slices' distance, and the weights that it begins with."""
    factor = times * grid.factor
    network, begun_from = first_weights(cfg.start, factor, cfg.seed, or_scratch=times > 1)
    ratio = None if grid.whole else times * grid.ratio
    filler = Filler(on_device(network, device), factor, mean, deviation, 1.0, 1.0, ratio, cfg.orientations)
    return filler, begun_from


def _write(
    weights: Path, filler: Filler, cfg: VemTrain, begun_from: str, metrics: dict[str, float | int | None]
) -> None:
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
            "orientations": filler.orientations,
            "coverage": cfg.coverage,
            "begun_from": begun_from,
            "settings": cfg.model_dump(mode="json"),
            "metrics": metrics,
        },
    )


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

"""Commands of texture-faithful sampling: train a sampler, sample a volume."""

from __future__ import annotations

import logging
import math
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
import zarr

from emflow import device as devices
from emflow.io.journal import Journal, result_key
from emflow.io.ome import create_image, write_pyramid
from emflow.io.record import Record, write_metrics, write_verdicts
from emflow.io.volume import open_volume, volume_identity
from emflow.nn.weights import CheckpointFile, write_model
from emflow.step import Run
from emflow.vem.blocks import Block, blocks_of
from emflow.vem.config import VemSample, VemTrainSampler
from emflow.vem.inputs import grid_of, read_doubled, read_filler, voxel_of
from emflow.vem.inputs_sample import KIND, read_examples, read_sampler, require_grid
from emflow.vem.inputs_slices import Measured, table_digest
from emflow.vem.lacking import Lacking
from emflow.vem.outputs import stored
from emflow.vem.outputs_images import chunks_of
from emflow.vem.outputs_restored import slice_notes
from emflow.vem.outputs_sample import at_temperature, gate_verdicts, sampler_metrics
from emflow.vem.outputs_slices import tells
from emflow.vem.restore import restore_block
from emflow.vem.sampler import Sampler, assemble, sample_block
from emflow.vem.tell import lacking_of, told_of
from emflow.vem.train_sampler import begin, judge, plane_error, saved_by_joining, strength, train_flow

log = logging.getLogger("emflow")


def train_sampler(
    volume: Path,
    model: Path,
    out: Path,
    /,
    *,
    slices: Path | None = None,
    cfg: VemTrainSampler = VemTrainSampler(),
    run: Run = Run(),
) -> None:
    """Learn to sample the texture that a model's result lacks, and judge the samples on planes kept from the training.

    Parameters
    ----------
    volume
        The volume that the model was trained on; or an isotropic one of the same microscope, whose texture along the
        axis is then learned.
    model
        Folder or weights from vem train.
    out
        Folder to write: sampler.safetensors, its manifest, metrics.json, verdicts.json.
    slices
        Table from vem check: what it does not use is not learned from; the others are moved into register.
    """
    device = devices.prepare(run)
    source = open_volume(volume)
    measured = Measured.of(source, slices, align=cfg.align, normalise=cfg.normalise)
    filler, filling = read_filler(model, device)
    for parameter in filler.network.parameters():
        parameter.requires_grad_(False)
    found = read_examples(measured, voxel_of(source, cfg), filler, cfg)
    with Record("vem.train_sampler", cfg, run, inputs=[volume, model, *_given(slices)]) as record:
        saved = saved_by_joining(filler, found.slices.to(device))
        error = max(plane_error(filler, found.unseen, cfg, device) - saved, 1e-12)
        sampler, texture = begin(filler, found.learned, error, cfg, device)
        key = result_key(cfg, filling.sha256, volume_identity(source), table_digest(slices))
        checkpoint = CheckpointFile(out / ".checkpoint.safetensors", key)
        sampler.network = train_flow(sampler, found.learned, cfg, device, checkpoint)
        sampler.deviation /= max(strength(sampler, found.learned, cfg, device), 1e-6)
        judged = judge(sampler, found.unseen, cfg.evaluations, cfg, device)
        # errors along the axis are larger than in thinned-out slices by as much as hidden slices told
        widening = 1.0 if found.axial else (filling.facts.get("metrics", {}).get("interval_widening") or 1.0)
        loss = 10 * math.log10(1 + texture.variance / error)
        metrics = sampler_metrics(judged, texture, loss, widening)
        write_metrics(out / "metrics.json", metrics)
        write_verdicts(out / "verdicts.json", gate_verdicts(metrics))
        write_model(
            out / "sampler.safetensors",
            {**sampler.network.state_dict(), "taps": sampler.taps, "kernel": sampler.kernel},
            {"kind": KIND, "factor": filler.factor},
            licence="not stated",
            recipe=[shlex.join(["emflow", *sys.argv[1:]])],
            facts={
                "filler": filling.sha256,
                "deviation": sampler.deviation * widening,
                "settings": cfg.model_dump(mode="json"),
                "metrics": metrics,
            },
        )
        checkpoint.remove()
        record.notes = dict(metrics)


def sample(
    volume: Path,
    model: Path,
    sampler: Path,
    out: Path,
    /,
    *,
    slices: Path | None = None,
    cfg: VemSample = VemSample(),
    run: Run = Run(),
) -> None:
    """Fill the gaps between slices with samples of what may be there: their texture is invented, their spectrum is not.

    What vem restore does not ask its network for (slices that the table does not use, noise) is filled as there.
    A run that was killed goes on with the block that it was at.

    Parameters
    ----------
    volume
        TIFF stack or folder, MRC, HDF5 (FILE:/NAME), Zarr or OME-Zarr.
    model, sampler
        Folders or weights from vem train and vem train-sampler.
    out
        Folder to write: OME-Zarr images sample_1.zarr …, of several samples mean.zarr and deviation.zarr, too;
        metrics.json and verdicts.json: the sampler's figures and its gate, at this temperature.
    slices
        Table from vem check, as for vem restore.
    """
    device = devices.prepare(run)
    source = open_volume(volume)
    measured = Measured.of(source, slices, align=cfg.align, normalise=cfg.normalise)
    voxel = voxel_of(source, cfg)
    drawing, weights, filling = read_sampler(sampler, model, device)
    grid = grid_of(source, voxel)
    require_grid(drawing.filler, grid, model, volume)
    factor = grid.factor
    coverage = float(filling.facts["coverage"])
    doubled = None if all(measured.used) else read_doubled(model, drawing.filler, device)
    told = told_of(measured, coverage)
    lacking = lacking_of(measured, doubled, told, coverage)
    metrics = at_temperature(weights.facts["metrics"], cfg.temperature)
    verdicts = gate_verdicts(metrics) + [tells(told)]
    for said in verdicts:
        if said["verdict"] != "pass":
            log.warning("%s %s: %s", said["question"], said["verdict"], said["evidence"])
    with Record("vem.sample", cfg, run, inputs=[volume, model, sampler, *_given(slices)]) as record:
        wished = cfg.block_slices, cfg.block_px, cfg.block_px
        sides, blocks = blocks_of(
            measured.shape, wished, drawing.reach(cfg.evaluations), grid, doubled is not None
        )
        shape = ((measured.shape[0] - 1) * factor + 1, *measured.shape[1:])
        chunk = chunks_of(sides)
        notes = {
            "made_by": "vem.sample",
            "weights": weights.sha256,
            "input": volume_identity(source),
            "seed": cfg.seed,
            "texture": "sampled",
            "slices": table_digest(slices),
            **slice_notes(measured, grid),
        }
        names = [f"sample_{number + 1}" for number in range(cfg.samples)]
        names += ["mean", "deviation"] if cfg.samples > 1 else []
        isotropic = voxel[0] / factor, voxel[1], voxel[2]
        float_type = np.dtype(np.float32)
        images = {
            name: create_image(
                out / f"{name}.zarr",
                shape,
                float_type if name == "deviation" else source.dtype,
                isotropic,
                chunk,
                {**notes, "content": name},
            )
            for name in names
        }
        # within the images, so that an image that is made anew begins without one
        journals = [Journal(out / f"{name}.zarr" / ".blocks.journal") for name in names]
        key = result_key(cfg, notes, chunk)
        for block in blocks:
            if any(journal.get(str(block.number), key) is None for journal in journals):
                _sample(measured, drawing, block, images, lacking, cfg)
                for journal in journals:
                    journal.put(str(block.number), key, True)
        for name in names:
            write_pyramid(out / f"{name}.zarr")
        write_metrics(out / "metrics.json", metrics)
        write_verdicts(out / "verdicts.json", verdicts)
        record.notes = {"blocks": len(blocks), "voxels": int(np.prod(shape)), "weights": weights.sha256}


def _given(slices: Path | None) -> list[Path]:
    return [slices] if slices else []


def _sample(
    measured: Measured,
    sampler: Sampler,
    block: Block,
    images: dict[str, zarr.Array],
    lacking: Lacking | None,
    cfg: VemSample,
) -> None:
    filler = sampler.filler
    slices = measured.read(*block.seen).to(sampler.taps.device)
    seeds = [cfg.seed * 1000003 + number for number in range(cfg.samples)]
    mean, textures = sample_block(
        sampler, (slices - filler.mean) / filler.deviation, block, seeds, cfg.evaluations
    )
    if lacking and lacking.nothing:
        mean = torch.full_like(mean, (lacking.nothing.mean - filler.mean) / filler.deviation)
    strength = sampler.deviation * cfg.temperature
    filled = [(mean + strength * texture) * filler.deviation + filler.mean for texture in textures]
    made = [assemble(slices, gaps, block) for gaps in filled]
    if lacking and (wide := lacking.within_wide(block.made[0], filler.factor)).any():
        restored = restore_block(filler, slices, block, lacking).values
        for values in made:
            values[wide] = restored[wide]
    at = block.region
    for number, values in enumerate(made):
        images[f"sample_{number + 1}"][at] = stored(values, measured.volume.dtype)
    if len(made) > 1:
        together = torch.stack(made)
        images["mean"][at] = stored(together.mean(0), measured.volume.dtype)
        images["deviation"][at] = stored(together.std(0), np.dtype(np.float32))

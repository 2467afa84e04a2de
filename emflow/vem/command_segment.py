"""Verbs of the segmentation: learn from labelled slices, segment a volume, score segments."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import zarr

from emflow import device as devices
from emflow.figure import png_bytes
from emflow.io.atomic import write_bytes
from emflow.io.journal import Journal, result_key
from emflow.io.labels import create_labels, labels_path
from emflow.io.ome import create_image, write_pyramid
from emflow.io.record import Record, write_metrics, write_verdicts
from emflow.io.volume import Volume, open_volume, volume_identity
from emflow.nn.weights import CheckpointFile, write_model
from emflow.step import EmflowError, Run
from emflow.vem.agreement import MaskOverlap, agreement, joint_of
from emflow.vem.choose import choose_cut, judged, mean_agreement
from emflow.vem.config import VemScoreSegments, VemSegment, VemTrainMembranes
from emflow.vem.figures import draw_segments
from emflow.vem.inputs import to_tensor, voxel_of
from emflow.vem.inputs_segment import (
    KIND,
    Labelled,
    open_labels,
    read_labelled,
    read_membranes,
    read_segments,
    statistics_of,
)
from emflow.vem.membrane import MembraneNetwork, calibrate, train_network
from emflow.vem.outputs_images import chunks_of
from emflow.vem.outputs_segment import (
    LEVELS,
    learning_metrics,
    learning_verdicts,
    segment_metrics,
    segment_verdicts,
)
from emflow.vem.segment import Intensities, block_probability, block_segments, earlier_part, halo_of, mode_of
from emflow.vem.stitch import Array, Block, divided, names, region
from emflow.vem.watershed import Cut

_HELD_OUT = 4
"""The last so-manieth of the rows of each labelled slice is kept from the training."""
_SLAB_VOXELS = 2**24
_LEAST_PIXELS = VemSegment.model_fields["least_pixels"].default


def train_membranes(
    images: Path,
    labels: Path,
    out: Path,
    /,
    *,
    cfg: VemTrainMembranes = VemTrainMembranes(),
    run: Run = Run(),
) -> None:
    """Learn from labelled slices where membranes are, and where to cut so that segments are those of the labels.

    The last quarter of the rows of each slice is not learned from: the calibration of the probability and the cut are
    chosen there, and scored.

    Parameters
    ----------
    images
        TIFF stack or folder, MRC, HDF5 (FILE:/NAME), Zarr or OME-Zarr.
    labels
        Volume of the same shape: 0 for membrane, the numbers of segments elsewhere, or one number for all of them.
        Segments may also touch. Slices with nothing but 0 are taken as not labelled.
    out
        Folder to write: model.safetensors, its manifest model.json, metrics.json, verdicts.json.
    """
    device = devices.prepare(run)
    with Record("vem.train_membranes", cfg, run, inputs=[images, labels]) as record:
        given = read_labelled(images, labels, cfg.max_slices, cfg.max_side_px)
        rows = given.images[0].shape[0]
        first = rows - rows // _HELD_OUT
        if min(first, given.images[0].shape[1]) < 32:
            raise EmflowError(
                f"{images}: slices of {rows} rows are too small to learn from; expected 64 or more."
            )
        key = result_key(cfg, *(volume_identity(open_volume(path)) for path in (images, labels)))
        checkpoint = CheckpointFile(out / ".checkpoint.safetensors", key)
        learned = [image[:first] for image in given.images], [segments[:first] for segments in given.labels]
        network = train_network(*learned, cfg, device, checkpoint)
        cut, metrics, verdicts = _settle(network, given, first, device)
        write_metrics(out / "metrics.json", metrics)
        write_verdicts(out / "verdicts.json", verdicts)
        write_model(
            out / "model.safetensors",
            network.network.state_dict(),
            {"kind": KIND, "affinities": cfg.affinities},
            licence="not stated",
            recipe=[shlex.join(["emflow", *sys.argv[1:]])],
            facts={
                "slope": network.slope,
                "offset": network.offset,
                "turns": network.turns,
                "cut": cut.facts(),
                "settings": cfg.model_dump(mode="json"),
                "metrics": metrics,
            },
        )
        checkpoint.remove()
        record.notes = dict(metrics)


def _settle(
    network: MembraneNetwork, given: Labelled, first: int, device: torch.device
) -> tuple[Cut, dict[str, float | int | None], list[dict[str, str]]]:
    """Calibrate the network on rows from ``first`` on, choose where to cut, and judge both."""
    true = [segments[first:].numpy() for segments in given.labels]
    seen = max(0, first - network.margin)
    logits = [network.whole_logits(image[seen:].to(device))[first - seen :].cpu() for image in given.images]
    membrane = torch.from_numpy(np.stack(true) == 0)
    network.slope, network.offset = calibrate(torch.stack(logits), membrane)
    probability = [network.calibrated(part).numpy() for part in logits]
    cut = choose_cut(probability, true, _LEAST_PIXELS)
    told = judged(probability, true, cut, _LEAST_PIXELS)
    metrics = learning_metrics(len(true), told, cut, (network.slope, network.offset))
    return cut, metrics, learning_verdicts(told)


def segment(
    volume: Path, model: Path, out: Path, /, *, cfg: VemSegment = VemSegment(), run: Run = Run()
) -> None:
    """Find membranes, and the segments that they divide, block by block.

    A run that was killed goes on with the block that it was at; only the last pass, which gives the segments their
    final numbers, begins anew.

    Parameters
    ----------
    volume
        TIFF stack or folder, MRC, HDF5 (FILE:/NAME), Zarr or OME-Zarr.
    model
        Folder or weights from vem train-membranes.
    out
        OME-Zarr image to write: the membrane probability, in 255ths, and within it the segments as its labels; beside
        them metrics.json and verdicts.json.
    """
    device = devices.prepare(run)
    source = open_volume(volume)
    voxel = voxel_of(source, cfg)
    network, cut, weights = read_membranes(model, device)
    mode = mode_of(cfg, voxel)
    with Record("vem.segment", cfg, run, inputs=[volume, model]) as record:
        mean, deviation = statistics_of(source)
        blocks, sides = _blocks(source, network, cfg)
        chunk = chunks_of(sides)
        notes = {
            "made_by": "vem.segment",
            "weights": weights.sha256,
            "input": volume_identity(source),
            "mode": mode,
        }
        membrane = create_image(
            out,
            source.shape,
            np.dtype(np.uint8),
            voxel,
            chunk,
            {**notes, "content": "membrane probability, 255ths"},
        )
        key = result_key(cfg, notes, chunk)
        seen = Intensities(
            lambda box: to_tensor(source.read(region(box)), source.path, device),
            source.shape,
            mean,
            deviation,
        )
        journal = Journal(out / ".membrane.journal")
        for block in blocks:
            if journal.get(str(block.number), key) is None:
                found = block_probability(seen, block, network, mode == "volume")
                levels = (found * LEVELS).round().to(torch.uint8).numpy()
                membrane[region(block.core)] = levels
                journal.put(
                    str(block.number), key, np.bincount(levels.ravel(), minlength=LEVELS + 1).tolist()
                )
        write_pyramid(out)
        histogram = np.array([journal.get(str(block.number), key) for block in blocks]).sum(0)
        sizes = _segments(out, membrane, blocks, (mode, cut, cfg), (key, voxel, chunk, notes))
        write_bytes(out / "figures" / "segments.png", png_bytes(draw_segments(*read_segments(source, out))))
        metrics = segment_metrics(histogram, weights.facts["metrics"], cut.threshold, sizes)
        write_metrics(out / "metrics.json", metrics)
        write_verdicts(out / "verdicts.json", segment_verdicts(metrics))
        record.notes = {"mode": mode, "blocks": len(blocks), "weights": weights.sha256, **metrics}


def _blocks(
    source: Volume, network: MembraneNetwork, cfg: VemSegment
) -> tuple[list[Block], tuple[int, int, int]]:
    """Blocks that begin at multiples of the network's stride, so that they see what the whole sees."""
    stride = network.network.stride
    z, y, x = (-(-side // stride) * stride for side in (cfg.block_slices, cfg.block_px, cfg.block_px))
    return divided(source.shape, (z, y, x)), (z, y, x)


def _segments(
    out: Path, membrane: zarr.Array, blocks: list[Block], how: tuple[str, Cut, VemSegment], about: tuple
) -> Array:
    """Divide the volume block by block, join what belongs together, and write it; voxels of each segment."""
    key, voxel, chunk, notes = about
    shape = membrane.shape[0], membrane.shape[1], membrane.shape[2]
    final = create_labels(out, "segments", shape, voxel, chunk, {**notes, "content": "segments"})
    scratch = labels_path(out, "segments") / ".provisional"
    provisional = zarr.open_array(
        scratch / "labels",
        mode="a", shape=shape, dtype=np.uint32, chunks=chunk, fill_value=0, zarr_format=3,
    )  # fmt: skip
    journal = Journal(scratch / "blocks.journal")
    base = 0
    pairs: list[Array] = []
    for block in blocks:
        told = journal.get(str(block.number), key)
        if told is None:
            box = block.seen(halo_of(how[0], how[2]), shape)
            probability = np.asarray(membrane[region(box)]).astype(np.float32) / LEVELS
            earlier = earlier_part(np.asarray(provisional[region(box)]), block.core, box)
            found = block_segments(probability, earlier, (block.core, box), base, how)
            provisional[region(block.core)] = found.labels.astype(np.uint32)
            told = {"segments": found.number, "links": found.links.tolist()}
            journal.put(str(block.number), key, told)
        base += told["segments"]
        pairs.append(np.array(told["links"], np.int64).reshape(-1, 2))
    table = names(base, np.concatenate(pairs))
    sizes = np.zeros(int(table.max()) + 1, np.int64)
    for block in blocks:
        labels = table[np.asarray(provisional[region(block.core)])]
        final[region(block.core)] = labels
        found_names, counts = np.unique(labels, return_counts=True)
        sizes[found_names] += counts
    write_pyramid(labels_path(out, "segments"), labels=True)
    shutil.rmtree(scratch)
    return sizes[1:]


def score_segments(
    segments: Path,
    truth: Path,
    out: Path,
    /,
    *,
    membrane: Path | None = None,
    cfg: VemScoreSegments = VemScoreSegments(),
    run: Run = Run(),
) -> None:
    """Compare segments with the true ones: Rand and information scores, of splits and of mergers.

    Parameters
    ----------
    segments
        Labels, or what vem segment wrote; pixels of 0 are in no segment, and count as one each.
    truth
        Labels of the same shape; what is 0 in them (membrane) is left out.
    out
        JSON file of the figures.
    membrane
        Membrane probability that vem segment wrote (255ths), or a mask of 0 and 255: it is compared with the pixels
        that are 0 in the truth.
    """
    found, true = open_labels(segments), open_labels(truth)
    if found.shape != true.shape:
        raise EmflowError(f"{segments}: shape {found.shape}, {truth}: {true.shape}; expected one shape.")
    inputs = [segments, truth, *([membrane] if membrane else [])]
    with Record("vem.score_segments", cfg, run, inputs=inputs) as record:
        try:
            if cfg.planes == "volume":
                scores = asdict(
                    agreement(joint_of((found.read(box), true.read(box)) for box in _slabs(true)))
                )
            else:
                scores = mean_agreement(_planes(found, true, {"xy": 0, "xz": 1, "yz": 2}[cfg.planes]))
        except ValueError as error:
            raise EmflowError(f"{segments}, {truth}: {error}.") from None
        metrics: dict[str, float | int | None] = {**scores, "iou": None, "dice": None, "pixel_error": None}
        if membrane is not None:
            overlap = _overlap(open_volume(membrane), true, cfg.threshold)
            metrics |= {"iou": overlap.iou, "dice": overlap.dice, "pixel_error": overlap.pixel_error}
        write_metrics(out, metrics)
        record.notes = dict(metrics)


def _slabs(volume: Volume) -> Iterator[tuple[slice, slice, slice]]:
    """Slices one after the other, some at once where they are small."""
    depth, height, width = volume.shape
    step = max(1, _SLAB_VOXELS // (height * width))
    for first in range(0, depth, step):
        yield slice(first, min(first + step, depth)), slice(0, height), slice(0, width)


def _planes(found: Volume, true: Volume, axis: int) -> Iterator[tuple[Array, Array]]:
    """Planes across an axis, one after the other."""
    for at in range(true.shape[axis]):
        z, y, x = (slice(at, at + 1) if axis == a else slice(0, n) for a, n in enumerate(true.shape))
        yield found.read((z, y, x)).squeeze(axis), true.read((z, y, x)).squeeze(axis)


def _overlap(membrane: Volume, true: Volume, threshold: float) -> MaskOverlap:
    """How the membrane of a probability, in 255ths, and the truth's zeros overlap."""
    if membrane.shape != true.shape or membrane.dtype != np.uint8:
        raise EmflowError(
            f"{membrane.path}: {membrane.dtype} of shape {membrane.shape}; expected uint8 of {true.shape}: a probability "
            "in 255ths."
        )
    overlap = MaskOverlap()
    for box in _slabs(true):
        overlap.add(membrane.read(box) >= threshold * LEVELS, true.read(box) == 0)
    return overlap

"""Commands that fill a volume's gaps: in one go, or divided among jobs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emflow import device as devices
from emflow.figure import png_bytes
from emflow.io.atomic import write_bytes, write_text
from emflow.io.journal import result_key
from emflow.io.record import Record, write_metrics, write_verdicts
from emflow.io.volume import open_volume, volume_identity
from emflow.nn.weights import Model
from emflow.step import EmflowError, Run
from emflow.vem.axial import Told
from emflow.vem.blocks import Block, blocks_of
from emflow.vem.config import VemParts, VemRestore
from emflow.vem.figures import draw_plane, draw_spectra
from emflow.vem.grid import TOLERANCE
from emflow.vem.inputs import grid_of, read_doubled, read_filler, voxel_of
from emflow.vem.inputs_shown import read_plane, read_spectra
from emflow.vem.inputs_slices import Measured, table_digest
from emflow.vem.lacking import Lacking
from emflow.vem.model import Filler
from emflow.vem.outputs import stored
from emflow.vem.outputs_images import Image, Images, chunks_of
from emflow.vem.outputs_restored import restoring_metrics, restoring_verdicts, slice_notes
from emflow.vem.outputs_slices import tells
from emflow.vem.parts import blocks_of_part, parts_of
from emflow.vem.restore import restore_block
from emflow.vem.tell import lacking_of, told_of

RESTORED, UNCERTAINTY, ABSTAIN = "restored.zarr", "uncertainty.zarr", "abstain.zarr"
"""Names of the images in a folder that jobs fill together."""
Count = dict[str, float]


@dataclass(frozen=True)
class Targets:
    """Images to write."""

    out: Path
    error: Path
    mask: Path | None = None

    @staticmethod
    def of(folder: Path) -> Targets:
        """Return those of a folder."""
        return Targets(folder / RESTORED, folder / UNCERTAINTY, folder / ABSTAIN)


@dataclass(frozen=True)
class Task:
    """All that the blocks of a restoration have in common."""

    measured: Measured
    filler: Filler
    weights: Model
    lacking: Lacking | None
    told: Told | None
    limit: float
    """Largest half-width that is allowed, in the volume's unit."""
    blocks: list[Block]
    images: list[Image]
    """Restored, its error, and the mask where one is asked for."""
    key: str
    device: torch.device

    @property
    def metrics_of_slices(self) -> tuple[Measured, Lacking | None, Told | None]:
        """What the figures of a restoration tell beside its counts."""
        return self.measured, self.lacking, self.told

    def fill(self, numbers: range, part: str = "") -> list[Count]:
        """Restore blocks that are not done yet; what all of them count, in order."""
        # within the images, so that an image that is made anew begins without one
        journals = [image.journal(part) for image in self.images]
        counts = []
        for number in numbers:
            if any(journal.get(str(number), self.key) is None for journal in journals):
                count = self.restore(self.blocks[number])
                for journal in journals:
                    journal.put(str(number), self.key, count)
            counts.append(journals[0].get(str(number), self.key))
        return counts  # type: ignore[return-value]

    def restore(self, block: Block) -> Count:
        """Restore and store a block."""
        slices = self.measured.read(*block.seen).to(self.device)
        found = restore_block(self.filler, slices, block, self.lacking)
        at = block.region
        dtype = self.measured.volume.dtype
        refused = found.error > self.limit
        self.images[0].level[at] = stored(found.values, dtype)
        self.images[1].level[at] = stored(found.error, dtype, up=True)
        for image in self.images[2:]:
            image.level[at] = refused.cpu().numpy().astype(np.uint8)
        return {
            "filled": int((found.error > 0).sum()),
            "abstained": int(refused.sum()),
            "half_widths": float(found.error.double().sum()),
        }

    def finish(self) -> None:
        """Write the images' coarser levels, or the files that they become."""
        for image in self.images:
            image.finish()
        for image in self.images:
            image.tidy()


def _task(
    volume: Path,
    model: Path,
    targets: Targets,
    slices: Path | None,
    cfg: VemRestore,
    run: Run,
    begun: bool = False,
) -> Task:
    """Open everything; ``begun`` says that the images must be there."""
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
    doubled = None if all(measured.used) else read_doubled(model, filler, device)
    told = told_of(measured, coverage)
    lacking = lacking_of(measured, doubled, told, coverage)
    wished = cfg.block_slices, cfg.block_px, cfg.block_px
    sides, blocks = blocks_of(measured.shape, wished, filler.network, filler.grid, doubled is not None)
    limit = cfg.max_error * (told.deviation if told else filler.deviation)
    notes: dict[str, Any] = {
        "made_by": "vem.restore",
        "weights": weights.sha256,
        "input": volume_identity(source),
        "slices": table_digest(slices),
        **slice_notes(measured, filler.grid),
    }
    places = Images(
        (filler.grid.slices(len(measured.slices)), *measured.shape[1:]),
        (voxel[0] / grid.factor if grid.whole else voxel[2], voxel[1], voxel[2]),
        chunks_of(sides),
        notes,
    )
    wanted = [
        (targets.out, source.dtype, "restored"),
        (targets.error, source.dtype, f"{coverage:g} interval, half-width"),
        (targets.mask, np.dtype(np.uint8), f"1 where the half-width exceeds {limit:g}"),
    ]
    images = [places.create(path, dtype, content, begun) for path, dtype, content in wanted if path]
    key = result_key(cfg, notes, sides, limit)
    return Task(measured, filler, weights, lacking, told, limit, blocks, images, key, device)


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
    with Record("vem.restore", cfg, run, inputs=[volume, model, *_given(slices)]) as record:
        task = _task(volume, model, Targets(out, error, mask), slices, cfg, run)
        counts = task.fill(range(len(task.blocks)))
        task.finish()
        metrics = restoring_metrics(counts, *task.metrics_of_slices)
        if report is not None:
            _write_figures(report, metrics, task, cfg)
        record.notes = {"blocks": len(task.blocks), "weights": task.weights.sha256, **metrics}


def parts(volume: Path, out: Path, /, *, cfg: VemParts = VemParts(), run: Run = Run()) -> None:
    """Divide a volume among jobs, for vem fill.

    Parameters
    ----------
    volume
        TIFF stack or folder, MRC, HDF5 (FILE:/NAME), N5, Zarr or OME-Zarr.
    out
        Folder to write: part_00001.json and so on.
    """
    source = open_volume(volume)
    with Record("vem.parts", cfg, run, inputs=[volume]) as record:
        divided = parts_of(source.shape, volume_identity(source), cfg)
        for number, part in divided.items():
            write_text(out / f"part_{number}.json", json.dumps(part, indent=1) + "\n")
        record.notes = {"parts": len(divided)}


def begin(
    volume: Path,
    model: Path,
    folder: Path,
    done: Path,
    /,
    *,
    slices: Path | None = None,
    cfg: VemRestore = VemRestore(),
    run: Run = Run(),
) -> None:
    """Create the images that several jobs fill (vem fill) and one finishes (vem finish).

    Parameters
    ----------
    volume, model, slices
        As for vem restore.
    folder
        Folder of the images: restored.zarr, uncertainty.zarr, abstain.zarr.
    done
        JSON file to write when they are there.
    """
    with Record("vem.begin", cfg, run, inputs=[volume, model, *_given(slices)]) as record:
        task = _task(volume, model, Targets.of(folder), slices, cfg, run)
        record.notes = {"blocks": len(task.blocks)}
        write_text(done, json.dumps({"blocks": len(task.blocks), "key": task.key}, indent=1) + "\n")


def fill(
    volume: Path,
    model: Path,
    folder: Path,
    done: Path,
    /,
    *,
    part: Path,
    slices: Path | None = None,
    cfg: VemRestore = VemRestore(),
    run: Run = Run(),
) -> None:
    """Fill a part of the blocks of images that vem begin created; other jobs may do other parts at the same time.

    Parameters
    ----------
    volume, model, slices
        As for vem restore.
    folder
        Folder of the images.
    done
        JSON file to write: what the blocks count.
    part
        JSON file from vem parts, or any that says which part of how many, as ``{"part": 1, "of": 8}``.
    """
    number, parts = _read_part(part)
    with Record("vem.restore", cfg, run, inputs=[volume, model, part, *_given(slices)]) as record:
        task = _task(volume, model, Targets.of(folder), slices, cfg, run, begun=True)
        mine = blocks_of_part(number, parts, len(task.blocks))
        counts = task.fill(mine, f"_{number}_of_{parts}")
        record.notes = {"parts": 1, "blocks": len(mine), "weights": task.weights.sha256}
        write_text(done, json.dumps({"part": number, "of": parts, "counts": counts}) + "\n")


def finish(
    volume: Path,
    model: Path,
    folder: Path,
    /,
    *done: Path,
    slices: Path | None = None,
    cfg: VemRestore = VemRestore(),
    run: Run = Run(),
) -> None:
    """Finish images whose parts are all filled: their coarser levels, figures and verdicts.

    Parameters
    ----------
    volume, model, slices
        As for vem restore.
    folder
        Folder of the images; metrics.json, verdicts.json and figures/ are written to it.
    done
        What each vem fill wrote.
    """
    told = [json.loads(path.read_text(encoding="utf-8")) for path in done]
    parts = sorted((entry["part"], entry["of"]) for entry in told)
    if parts != [(number, len(parts)) for number in range(1, len(parts) + 1)]:
        raise EmflowError(f"{folder}: parts {parts} of the volume are there; expected each of one division.")
    with Record("vem.finish", cfg, run, inputs=[volume, model, *done, *_given(slices)]) as record:
        task = _task(volume, model, Targets.of(folder), slices, cfg, run, begun=True)
        task.finish()
        counts = [count for entry in told for count in entry["counts"]]
        metrics = restoring_metrics(counts, *task.metrics_of_slices)
        _write_figures(folder, metrics, task, cfg)
        record.notes = dict(metrics)


def _given(slices: Path | None) -> list[Path]:
    return [slices] if slices else []


def _read_part(path: Path) -> tuple[int, int]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        number, parts = int(content["part"]), int(content["of"])
    except (OSError, ValueError, KeyError, TypeError):
        number = parts = 0
    if not 1 <= number <= parts:
        raise EmflowError(f'{path}: expected which part of how many, as {{"part": 1, "of": 8}}.')
    return number, parts


def _write_figures(folder: Path, metrics: dict[str, float | int | None], task: Task, cfg: VemRestore) -> None:
    """Write metrics, verdicts, and pictures of a plane and of the spectra."""
    opened = [open_volume(image.path) for image in task.images]
    plane = read_plane(task.measured, task.filler.grid, *opened)
    spectra = read_spectra(opened[0], task.filler.grid)
    voxel = task.images[0].voxel_nm
    metrics |= {"voxel_nm": voxel[2]}
    metrics |= {f"{axis}_voxels": n for axis, n in zip("zyx", opened[0].shape, strict=True)}
    metrics["axial_over_lateral_power"] = spectra.high_band
    write_bytes(folder / "figures" / "plane.png", png_bytes(draw_plane(plane)))
    write_bytes(folder / "figures" / "spectra.png", png_bytes(draw_spectra(spectra)))
    verdicts = [*restoring_verdicts(metrics, cfg.max_error), tells(task.told)]
    write_verdicts(folder / "verdicts.json", verdicts)
    write_metrics(folder / "metrics.json", metrics)

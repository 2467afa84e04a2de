"""Commands of the denoise room: files in, files out."""

from __future__ import annotations

import hashlib
import logging
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from emflow import device as devices
from emflow.denoise.apply import denoise, noise_variance
from emflow.denoise.command_check import check
from emflow.denoise.command_restore import train_restorer
from emflow.denoise.config import DenoiseApply, DenoiseTrain
from emflow.denoise.inputs import (
    chosen_examples,
    is_bright,
    load_model,
    load_restorer,
    load_tables,
    read_sample,
    spread_over,
    what_is_learned_from,
)
from emflow.denoise.outputs import ImageJournal, keep_only, training_metrics, training_verdicts, with_denoised
from emflow.denoise.restorer import Sampling, restore
from emflow.denoise.scale import Scale
from emflow.denoise.train import held_out_gain, train_denoiser
from emflow.em.batches import in_batches
from emflow.io.freed import beside, freed
from emflow.io.image import is_restored, read_image
from emflow.io.journal import result_key
from emflow.io.micrographs import Micrographs, for_each, load_micrographs
from emflow.io.mrc import RESTORED_LABEL, write_mrc
from emflow.io.record import Record, write_metrics, write_verdicts
from emflow.io.star import write_star
from emflow.nn.fast import faster
from emflow.nn.ranks import Ranks, joined, launch, wanted
from emflow.nn.unet import UNet, on_device
from emflow.nn.weights import CheckpointFile, write_model
from emflow.step import EmflowError, Run

__all__ = ["apply", "check", "train", "train_restorer"]

log = logging.getLogger("emflow")


def apply(
    micrographs: Path,
    out: Path,
    /,
    *,
    examples: int = 0,
    reader: str = "",
    cfg: DenoiseApply = DenoiseApply(),
    run: Run = Run(),
) -> None:
    """Denoise each micrograph. The results are marked: they serve picking and viewing, never a map.

    Parameters
    ----------
    micrographs
        STAR table, folder, glob (in quotes) or image.
    out
        STAR table to write; the images go to images/ beside it, by the micrographs' ids; with method diffusion the
        samples' deviations go to deviations/, and a sample of each to samples/.
    examples
        Denoise only so many that show the range of the table: good and bad CTF fits, many and few picks. Images of
        others are removed from images/.
    reader
        Whom the images are made for (a digest of its settings): what it has removed is not made again.
    """
    device = devices.prepare(run)
    listed = load_micrographs(micrographs, cfg)
    if examples:
        listed = chosen_examples(listed, examples)
        keep_only(out.parent / "images", listed)
    network, scale, model = load_model(cfg.weights, device)
    half = cfg.precision == "bfloat16"
    denoiser = faster(network, half)
    sampled = load_restorer(cfg.restorer, model, device) if cfg.method == "diffusion" else None
    learned = [model.sha256, *([sampled[2].sha256] if sampled else [])]

    def target(row: int) -> Path:
        return out.parent / "images" / f"{listed.identity(row)}.mrc"

    def work(row: int) -> dict[str, Any]:
        name, pixel = listed.name(row), listed.facts(row).pixel_size_angstrom
        assert pixel is not None
        if is_restored(name):
            raise EmflowError(f"{name}: already denoised (its label says so); give the raw micrograph.")
        image = torch.from_numpy(read_image(name)).to(device)
        bright = is_bright(listed, row, cfg.contrast)

        def once(_: slice) -> tuple[dict[Path, torch.Tensor], float]:
            if sampled is None:
                plain = denoise(image, pixel, denoiser, scale, cfg.tile_px, bright)
                return {target(row): plain.image}, plain.kept_variance
            restorer, widening, _model = sampled
            seed = int(hashlib.sha256(f"{cfg.seed} {listed.identity(row)}".encode()).hexdigest()[:12], 16)
            how = Sampling(cfg.samples, cfg.evaluations, seed, widening, half)
            found = restore(image, pixel, (denoiser, restorer, scale), how, cfg.tile_px, bright)
            more = dict(zip(beside(target(row)), (found.deviation, found.sample), strict=True))
            return more | {target(row): found.image}, found.kept_variance

        ((images, kept),) = in_batches(once, 1, 1, "micrographs")
        for path, values in images.items():
            write_mrc(path, values.cpu().numpy(), pixel, labels=(RESTORED_LABEL,))
        return {"kept": f"{kept:.4g}"}

    def key(row: int) -> str:
        digest = listed.table["emflowDigest"].iloc[row] if "emflowDigest" in listed.table else ""
        bright = is_bright(listed, row, cfg.contrast)
        return result_key(cfg, listed.identity(row), listed.facts(row), digest, bright, *learned)

    with Record("denoise.apply", cfg, run, inputs=[micrographs]) as record:
        journal_path, folder = out.with_name(f".{out.stem}.journal"), out.parent / "images"
        journal = ImageJournal(journal_path, folder, freed(out, reader), sampled is not None)
        results, set_aside = for_each(listed, work, journal, key, run.image_limit_minutes)
        done = {row: (target(row), results[row]["kept"]) for row in results}
        table = with_denoised(listed.table, done, sampled is not None)
        write_star(out, {"optics": listed.optics, "micrographs": table, "set_aside": set_aside})
        record.notes = {"micrographs": len(table), "set_aside": len(set_aside), "weights": model.sha256}
        if sampled:
            record.notes["restorer"] = sampled[2].sha256


def train(
    *paths: Path,
    even: str | None = None,
    odd: str | None = None,
    cfg: DenoiseTrain = DenoiseTrain(),
    run: Run = Run(),
) -> None:
    """Train a model on micrographs, from their half sums or from themselves alone.

    Parameters
    ----------
    paths
        STAR tables (shards), a folder or a glob (in quotes), and last the folder to write: model.safetensors,
        its manifest model.json, micrographs.star, metrics.json, verdicts.json.
    even, odd
        Patterns of the half sums' paths where no table names them, with {name} for a micrograph's base name.
    """
    if len(paths) < 2:
        raise EmflowError("denoise train: give micrographs, and last the folder to write the model to.")
    *sources, out = paths
    count = wanted(run)
    if count > cfg.batch:
        raise EmflowError(
            f"execution.gpus is {count}, but denoise.train.batch only {cfg.batch}: every GPU needs a crop at least. "
            "Set gpus lower or batch higher."
        )
    if count > 1:
        halves = [f"--{name}={pattern}" for name, pattern in (("even", even), ("odd", odd)) if pattern]
        words = ["denoise", "train", *map(str, paths), *halves, "--json", cfg.model_dump_json()]
        launch(words, run, count)
        return
    device = devices.prepare(run)
    with joined(device) as ranks:
        _train(load_tables(sources, cfg, even, odd), out, cfg, device, (ranks, run, sources))


def _train(
    listed: Micrographs,
    out: Path,
    cfg: DenoiseTrain,
    device: torch.device,
    job: tuple[Ranks, Run, list[Path]],
) -> None:
    """Train as one of the ranks; the first of them writes."""
    ranks, run, sources = job
    chosen = spread_over(listed, cfg.max_micrographs)
    learn_from = what_is_learned_from(chosen, cfg.target)
    if not ranks.first:
        run = run.model_copy(update={"record": None})
    with Record("denoise.train", cfg, run, inputs=sources) as record:
        network, scale, begun_from = _begin(cfg, device)
        samples, used = [], []
        for row in range(len(chosen)):
            try:
                sample = read_sample(chosen, row, learn_from, scale, cfg)
            except EmflowError as error:
                log.warning("left out of the training: %s: %s", chosen.name(row), error)
                continue
            if sample is not None:
                samples.append(sample)
                used.append(row)
        if len(samples) < 2:
            raise EmflowError(
                f"denoise train: {len(samples)} of {len(chosen)} micrographs can be learned from; expected at "
                "least 2 (one is held out). Give more micrographs, or apply the general model."
            )
        identities = [(chosen.identity(row), chosen.name(row)) for row in used]
        key = result_key(cfg, begun_from, learn_from, identities)
        ranks.agree(key, "micrographs")
        checkpoint = CheckpointFile(out / ".checkpoint.safetensors", key)
        held_out = [number % 10 == 1 for number in range(len(samples))]
        learned = [s for s, held in zip(samples, held_out, strict=True) if not held]
        unseen = [s for s, held in zip(samples, held_out, strict=True) if held]
        outcome = train_denoiser(network, learned, cfg, device, checkpoint, ranks)
        cpu_s = ranks.total(time.process_time())
        if not ranks.first:
            return
        trained = outcome.network
        assert isinstance(trained, UNet)
        gain = held_out_gain(trained, unseen, cfg, device)
        metrics = training_metrics(outcome.losses, gain, len(learned), len(unseen))
        write_metrics(out / "metrics.json", metrics)
        write_verdicts(out / "verdicts.json", training_verdicts(gain))
        table = chosen.table.iloc[used].reset_index(drop=True)
        table["emflowHeldOut"] = ["1" if held else "0" for held in held_out]
        write_star(out / "micrographs.star", {"optics": chosen.optics, "micrographs": table})
        write_model(
            out / "model.safetensors",
            trained.state_dict(),
            {"kind": "unet", "widths": list(network.widths)},
            licence="not stated",
            recipe=[shlex.join(["emflow", *sys.argv[1:]])],
            facts={
                "scale": asdict(scale) | {"noise_variance": noise_variance(trained, device)},
                "learned_from": learn_from,
                "begun_from": begun_from,
                "settings": cfg.model_dump(mode="json"),
                "micrographs": hashlib.sha256(repr([i for i, _ in identities]).encode()).hexdigest(),
                "held_out_gain": gain,
            },
        )
        checkpoint.remove()
        record.notes = dict(metrics)
        if ranks.count > 1:
            record.notes |= {"ranks": ranks.count, "ranks_cpu_s": round(cpu_s, 3)}


def _begin(cfg: DenoiseTrain, device: torch.device) -> tuple[UNet, Scale, str]:
    """First weights, the scale, and what the weights are: a checksum or scratch."""
    if cfg.start != "scratch":
        network, scale, model = load_model(None if cfg.start == "general" else cfg.start, device)
        return network.requires_grad_(True), scale, model.sha256
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        network = UNet(cfg.widths)
    return on_device(network, device), Scale(pixel_angstrom=cfg.pixel_angstrom), "scratch"

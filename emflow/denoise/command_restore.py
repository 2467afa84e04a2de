"""The command that learns to sample a model's error."""

from __future__ import annotations

import hashlib
import logging
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from emflow import device as devices
from emflow.denoise.config import DenoiseTrainRestorer
from emflow.denoise.inputs import (
    RESTORER,
    load_model,
    load_tables,
    read_sample,
    spread_over,
    what_is_learned_from,
)
from emflow.denoise.outputs_restored import restorer_metrics, restorer_verdicts
from emflow.denoise.restorer import Restorer
from emflow.denoise.train_restorer import judge
from emflow.denoise.train_restorer import train_restorer as learn
from emflow.io.journal import result_key
from emflow.io.record import Record, write_metrics, write_verdicts
from emflow.nn.unet import on_device
from emflow.nn.weights import CheckpointFile, write_model
from emflow.step import EmflowError, Run

log = logging.getLogger("emflow")


def train_restorer(
    *paths: Path, cfg: DenoiseTrainRestorer = DenoiseTrainRestorer(), run: Run = Run()
) -> None:
    """Learn to sample a model's error, from simulated micrographs with their noise-free images.

    Parameters
    ----------
    paths
        STAR tables with the column emflowCleanName, of sessions that the model has not learned from, and last the
        folder to write: restorer.safetensors, its manifest restorer.json, metrics.json, verdicts.json.
    """
    if len(paths) < 2:
        raise EmflowError("denoise train-restorer: give micrographs, and last the folder to write to.")
    *sources, out = paths
    device = devices.prepare(run)
    mean, scale, model = load_model(cfg.weights, device)
    chosen = spread_over(load_tables(sources, cfg, None, None), cfg.max_micrographs)
    what_is_learned_from(chosen, "clean")
    with Record("denoise.train_restorer", cfg, run, inputs=sources) as record:
        samples, used = [], []
        for row in range(len(chosen)):
            try:
                sample = read_sample(chosen, row, "clean", scale, cfg)
            except EmflowError as error:
                log.warning("left out of the training: %s: %s", chosen.name(row), error)
                continue
            if sample is not None:
                samples.append(sample)
                used.append(chosen.identity(row))
        if len(samples) < 2:
            raise EmflowError(
                f"denoise train-restorer: {len(samples)} of {len(chosen)} micrographs can be learned from; expected "
                "at least 2 (one is held out). Simulate more (emflow simulate session --keep-clean)."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.seed)
            restorer = Restorer(cfg.widths).to(device)
        for network in (restorer.deviation, restorer.flow):
            on_device(network, device)
        key = result_key(cfg, model.sha256, used)
        checkpoints = [CheckpointFile(out / f".{name}.safetensors", key) for name in ("deviation", "flow")]
        learned = [s for number, s in enumerate(samples) if number % 10 != 1]
        unseen = samples[1::10]
        restorer, deviation_losses, losses = learn(
            restorer, mean, learned, cfg, device, (checkpoints[0], checkpoints[1])
        )
        judged = judge(restorer, mean, unseen, cfg, device)
        metrics = restorer_metrics(judged, deviation_losses, losses, len(learned), len(unseen))
        write_metrics(out / "metrics.json", metrics)
        write_verdicts(out / "verdicts.json", restorer_verdicts(judged))
        write_model(
            out / "restorer.safetensors",
            restorer.state_dict(),
            {"kind": RESTORER, "widths": list(restorer.widths)},
            licence="not stated",
            recipe=[shlex.join(["emflow", *sys.argv[1:]])],
            facts={
                "scale": asdict(scale),
                "mean": model.sha256,
                "widening": judged.widening,
                "settings": cfg.model_dump(mode="json"),
                "micrographs": hashlib.sha256(repr(used).encode()).hexdigest(),
                "metrics": metrics,
            },
        )
        for checkpoint in checkpoints:
            checkpoint.remove()
        record.notes = dict(metrics)

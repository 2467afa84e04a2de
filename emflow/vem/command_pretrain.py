"""Command of the vem room that learns general weights."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path

import torch

from emflow import device as devices
from emflow.io.journal import result_key
from emflow.io.record import Record, verdict, write_metrics, write_verdicts
from emflow.io.volume import open_volume
from emflow.nn.weights import CheckpointFile, write_model
from emflow.step import EmflowError, Run
from emflow.vem.config import VemPretrain
from emflow.vem.crops import Isotropic, isotropic
from emflow.vem.general import FACTORS, gain_db
from emflow.vem.general import pretrain as pretrain_filler
from emflow.vem.inputs import GENERAL_KIND, read_isotropic

log = logging.getLogger("emflow")

_UNSEEN = 12
"""Every so-manieth volume is kept from the training, to say what was learned."""


def pretrain(*paths: Path, cfg: VemPretrain = VemPretrain(), run: Run = Run()) -> None:
    """Learn from isotropic volumes to fill gaps of any factor from 2 to 16.

    Parameters
    ----------
    paths
        Isotropic volumes (TIFF, MRC, HDF5, Zarr, OME-Zarr), and last the folder to write: model.safetensors (half
        precision), its manifest model.json, metrics.json, verdicts.json. With more than one volume, some are kept
        from the training for the figures.
    """
    if len(paths) < 2:
        raise EmflowError(
            "vem pretrain: give isotropic volumes, and last the folder to write the weights to."
        )
    *sources, out = paths
    device = devices.prepare(run)
    with Record("vem.pretrain", cfg, run, inputs=sources) as record:
        volumes: list[Isotropic] = []
        for source in sources:
            pixels = read_isotropic(open_volume(source), cfg, cfg.max_side_px)
            try:
                volumes.append(isotropic(torch.from_numpy(pixels), FACTORS, cfg.crop_px, cfg.seed))
            except EmflowError as error:
                raise EmflowError(f"{source}: {error}") from None
        apart = max(2, min(_UNSEEN, len(volumes)))
        learned = [v for n, v in enumerate(volumes) if n % apart != apart - 1]
        unseen = [v for n, v in enumerate(volumes) if n % apart == apart - 1]
        key = result_key(cfg, [str(source) for source in sources], [v.spreads for v in volumes])
        checkpoint = CheckpointFile(out / ".checkpoint.safetensors", key)
        network = pretrain_filler(learned, cfg, device, checkpoint)
        gains = {
            f"gain_x{factor}_db": sum(gain_db(network, v, factor, cfg, device) for v in unseen) / len(unseen)
            for factor in FACTORS
            if unseen
        }
        metrics: dict[str, float | int | None] = {"volumes": len(learned), "unseen": len(unseen), **gains}
        write_metrics(out / "metrics.json", metrics)
        write_verdicts(out / "verdicts.json", [_verdict(gains)])
        write_model(
            out / "model.safetensors",
            {name: values.half() for name, values in network.state_dict().items()},
            {"kind": GENERAL_KIND, "factors": list(FACTORS)},
            licence="not stated",
            recipe=[shlex.join(["emflow", *sys.argv[1:]])],
            facts={"settings": cfg.model_dump(mode="json"), "metrics": metrics},
        )
        checkpoint.remove()
        record.notes = dict(metrics)


def _verdict(gains: dict[str, float]) -> dict[str, str]:
    question = "Are gaps of volumes that were not learned from filled better than by linear interpolation?"
    if not gains:
        return verdict(question, "unknown", "One volume alone: none was kept back.", "Give more volumes.")
    worst = min(gains, key=lambda name: gains[name])
    evidence = f"PSNR above linear interpolation: {min(gains.values()):.2f} ({worst}) to {max(gains.values()):.2f} dB."
    if min(gains.values()) > 0.3:
        return verdict(question, "pass", evidence)
    return verdict(question, "warn", evidence, "Train longer, or on more volumes.")

"""Command of the pick room that learns from labels."""

from __future__ import annotations

import hashlib
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from emflow import device as devices
from emflow.io.micrographs import Micrographs, load_micrographs
from emflow.io.record import Record, verdict, write_metrics, write_verdicts
from emflow.io.star import write_star
from emflow.nn.weights import write_model
from emflow.pick.calibration import count_taken
from emflow.pick.config_tools import PickTrain
from emflow.pick.inputs import is_dark
from emflow.pick.inputs_learn import KIND, Labelled, read_labels
from emflow.pick.positives import Learned, learn
from emflow.step import EmflowError, Run

FEW_LABELS, LOW_RECALL = 20, 0.6


def train(
    micrographs: Path, labels: Path, out: Path, /, *, cfg: PickTrain = PickTrain(), run: Run = Run()
) -> None:
    """Learn to pick from some labelled particles, without examples of what is none.

    Parameters
    ----------
    micrographs
        STAR table, folder, glob (in quotes) or image: those with labels, and others of the session.
    labels
        Positions of 20 to 200 particles, not chosen for being easy to see: STAR, CSV, EMAN box, Topaz text, or a folder
        of such files. They are only read.
    out
        Folder to write: model.safetensors, its manifest model.json, labels.star, metrics.json, verdicts.json.
    """
    device = devices.prepare(run)
    if cfg.diameter_angstrom is None:
        raise EmflowError("The particle's diameter is not known: give --diameter-angstrom, in ångström.")
    with Record("pick.train", cfg, run, inputs=[micrographs, labels]) as record:
        images = load_micrographs(micrographs, cfg)
        dark = [is_dark(images, row, cfg.contrast) for row in range(len(images))]
        read = read_labels(images, labels, cfg, dark, device)
        learned = learn(read.examples, cfg, device)
        metrics = _metrics(read, learned)
        write_metrics(out / "metrics.json", metrics)
        write_verdicts(out / "verdicts.json", _verdicts(metrics))
        write_star(out / "labels.star", {"particles": _label_table(images, read, learned)})
        state = {
            f"{number}.{name}": value
            for number, network in enumerate(learned.networks)
            for name, value in network.state_dict().items()
        }
        found = learned.calibration
        write_model(
            out / "model.safetensors",
            state,
            {"kind": KIND, "widths": list(cfg.widths)},
            licence="not stated",
            recipe=[shlex.join(["emflow", *sys.argv[1:]])],
            facts={
                "diameter_angstrom": cfg.diameter_angstrom,
                "calibration": {"score": found.score, "chance": found.chance},
                "labels": hashlib.sha256(np.concatenate(read.xy_px).tobytes()).hexdigest(),
                "settings": cfg.model_dump(mode="json"),
            },
        )
        record.notes = dict(metrics)


def _metrics(read: Labelled, learned: Learned) -> dict[str, float | int | None]:
    """Figures of the training; those of labels by the network that had not seen them."""
    chance = np.sort(learned.calibration.probabilities(learned.peaks))[::-1]
    taken = count_taken(chance, 0.05, 0.5)
    held_out = learned.calibration.probabilities(learned.held_out)
    recall = float((held_out >= chance[taken - 1]).mean()) if taken else 0.0
    n = len(learned.networks)
    return {
        "labels": len(learned.held_out),
        "labels_left_out": read.left_out,
        "micrographs": len(read.examples),
        "micrographs_with_labels": sum(len(xy) > 0 for xy in read.xy_px),
        "peaks_per_micrograph": len(learned.peaks) / n / len(read.examples),
        "particles_part_of_peaks": learned.particles,
        "particles_per_micrograph": learned.particles * len(learned.peaks) / n / len(read.examples),
        "highest_probability": float(chance[0]) if len(chance) else None,
        "held_out_labels_with_peak": float(np.isfinite(learned.held_out).mean()),
        "held_out_recall_at_5_percent": recall,
        "loss_last": float(np.mean(learned.losses[-20:])),
    }


def _verdicts(metrics: dict[str, float | int | None]) -> list[dict[str, str]]:
    labels, recall = metrics["labels"] or 0, metrics["held_out_recall_at_5_percent"] or 0.0
    return [
        verdict(
            "Are there enough labels?",
            "pass" if labels >= FEW_LABELS else "warn",
            f"{labels} labels were used",
            "" if labels >= FEW_LABELS else "Label more particles: 50 are better.",
        ),
        verdict(
            "Does the picker find particles that it was not shown?",
            "pass" if recall >= LOW_RECALL else "warn",
            f"{recall:.0%} of the labels, each by the network that had not seen it, at a false-discovery rate of 5 %",
            ""
            if recall >= LOW_RECALL
            else "Check the labels and the diameter, label more, or pick with a higher false_discovery_rate.",
        ),
    ]


def _label_table(images: Micrographs, read: Labelled, learned: Learned) -> pd.DataFrame:
    """The labels that were used, with the probability that the network gave each unseen."""
    names = [images.name(row) for row, xy in zip(read.rows, read.xy_px, strict=True) for _ in xy]
    x, y = np.concatenate(read.xy_px).T
    return pd.DataFrame(
        {
            "rlnMicrographName": names,
            "rlnCoordinateX": [f"{value:.2f}" for value in x],
            "rlnCoordinateY": [f"{value:.2f}" for value in y],
            "rlnAutopickFigureOfMerit": [
                f"{p:.4f}" for p in learned.calibration.probabilities(learned.held_out)
            ],
        },
        dtype=object,
    )

"""Train the general picker that emflow ships, from nothing but simulated sessions.

    python -m emflow.pick.weights.make_general FOLDER [WEIGHTS]

simulates sessions below FOLDER (what is there is kept), denoises them with the shipped denoiser, trains on both, and
calibrates on sessions that it was not trained on. Training starts from WEIGHTS (safetensors), if given: then it is
shorter, and other contamination is painted than the first time. ``general.safetensors`` and its manifest are written to
FOLDER, from where the two are copied here by hand.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score

from emflow.device import generator
from emflow.io.simulated import write_sessions
from emflow.nn.train import Plan
from emflow.nn.weights import CheckpointFile, write_model
from emflow.pick.apply_network import candidates
from emflow.pick.calibration import Calibration
from emflow.pick.config import PickApply
from emflow.pick.inputs_network import KIND
from emflow.pick.inputs_sample import denoised_names, examples_of, near, simulated
from emflow.pick.junk import add_junk
from emflow.pick.learn import Example, new_network, train_network
from emflow.pick.network import WIDTHS, PickerNetwork
from emflow.pick.score import match
from emflow.pick.weights.sessions import CALIBRATION, FIRST_SEED, TRAINING, place, run, simulate

SEED = 1
MATCH = 0.3
"""Distance within which a candidate is its particle, in diameters."""
_STREAM = 63
PLAN = Plan(steps=2300, batch=8, learning_rate=2e-3, averaging=0.99)
AGAIN = Plan(steps=900, batch=8, learning_rate=8e-4, averaging=0.99)
"""From given weights."""


def prepare(folder: Path) -> dict[str, Path]:
    """Simulate and denoise what is missing; the denoised images by micrograph."""
    simulate(folder)
    table, out = folder / "sessions.star", folder / "denoised" / "denoised.star"
    write_sessions(table, sorted(folder.glob("session_*")))
    if not out.exists():
        run([["denoise", "apply", str(table), str(out), "--contrast", "dark"]])
    return denoised_names(out)


def train(folder: Path, denoised: dict[str, Path], weights: Path | None) -> PickerNetwork:
    """Train, or go on where training was interrupted."""
    plan, seed = (AGAIN, SEED + 1) if weights else (PLAN, SEED)
    examples: list[Example] = []
    for index in TRAINING:
        for number, micrograph in enumerate(simulated(place(folder, index))):
            examples += examples_of(micrograph, denoised, seed, index, number)
    network = new_network(seed)
    if weights:
        network.load_state_dict(load_file(weights))
    key = f"{plan} {seed} {len(examples)}"
    done = train_network(network, examples, plan, seed, CheckpointFile(folder / "checkpoint", key))
    assert isinstance(done.network, PickerNetwork)
    return done.network


@torch.no_grad()
def calibrate(folder: Path, network: PickerNetwork, denoised: dict[str, Path]) -> tuple[Calibration, float]:
    """Calibrate on sessions that were not learnt from, raw and denoised, half of them with painted contamination.

    Returns
    -------
    The calibration, and the average precision of these candidates.
    """
    scores, hits, number = [], [], 0
    for index in CALIBRATION:
        for order, micrograph in enumerate(simulated(place(folder, index))):
            for variant, name in enumerate((str(micrograph.path), str(denoised[str(micrograph.path)]))):
                random = generator(SEED, _STREAM, index, order, variant)
                image, dirt = -micrograph.read(name), torch.zeros(())
                if order % 2:
                    image, dirt = add_junk(image, micrograph.diameter_px, random)
                truth = micrograph.clear_of(dirt)
                cfg = PickApply(diameter_angstrom=micrograph.diameter_angstrom)
                found = candidates(image, micrograph.pixel_size_angstrom, False, cfg, network)
                hit = match(found.xy_px, truth, MATCH * micrograph.diameter_px) >= 0
                judged = hit | ~near(found.xy_px, micrograph.broken_xy_px, MATCH * micrograph.diameter_px)
                scores.append(found.score[judged])
                hits.append(hit[judged])
                number += len(truth)
    score, hit = np.concatenate(scores), np.concatenate(hits)
    return Calibration.fit(score, hit), float(average_precision_score(hit, score) * hit.sum() / number)


def main(folder: Path, weights: Path | None = None) -> None:
    """Make the weights."""
    denoised = prepare(folder)
    network = train(folder, denoised, weights)
    calibration, precision = calibrate(folder, network, denoised)
    write_model(
        folder / "general.safetensors",
        network.state_dict(),
        {"kind": KIND, "widths": list(WIDTHS)},
        licence="BSD-3-Clause",
        recipe=["python -m emflow.pick.weights.make_general FOLDER"],
        facts={
            "calibration": asdict(calibration),
            "held_out_average_precision": precision,
            "trained_on": f"{len(TRAINING)} sessions simulated by emflow, seeds from {FIRST_SEED}; no other data",
            "calibrated_on": f"{len(CALIBRATION)} others",
        },
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    main(*map(Path, sys.argv[1:]))

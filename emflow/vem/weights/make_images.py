"""Train the model for images that emflow ships, from nothing but made-up textures.

    python -m emflow.vem.weights.make_images FOLDER

draws the textures, trains in two stages (a killed run goes on), and writes ``images.safetensors`` with its manifest to
FOLDER, from where the two are copied here by hand. About 16 CPU-minutes on one thread.
"""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path

import numpy as np
import torch

from emflow.device import generator
from emflow.nn.tiles import crop
from emflow.nn.train import Plan
from emflow.nn.weights import CheckpointFile, write_model
from emflow.vem.denoiser import KIND, WIDTHS, FoldedUNet
from emflow.vem.textures import noise, texture
from emflow.vem.train_images import Batch, conformal_of, fit

FIRST_SEED = 1000
"""Seeds below are left to tests and judging."""
TEXTURES = 240
LEARNED = 216
"""Of a stage's textures; the others calibrate the interval."""
SIDE = 320
STAGES = (
    (0.0, Plan(steps=4500, batch=6, learning_rate=2e-3, averaging=0.998)),
    (0.8, Plan(steps=3000, batch=6, learning_rate=1.5e-3, averaging=0.998)),
)
"""Most grain of the textures, and how they are learned from; each stage has its own textures."""
BATCH = 6
CROP = 112
LEAST, MOST = 0.15, 2.5
"""Deviation of the noise, in deviations of the signal."""
COVERAGE = 0.9
_CPU = torch.device("cpu")


def draw(textures: torch.Tensor, seed: int, step: int) -> Batch:
    """Draw crops of textures with fresh noise, brought to deviation 1 as images are; one in twenty has no signal."""
    rng, torch_rng = np.random.default_rng([seed, step]), generator(seed, step)
    inputs, targets = [], []
    for _ in range(BATCH):
        clean = crop(textures[int(rng.integers(len(textures)))][None], CROP, torch_rng)[0].numpy()
        if rng.random() < 0.05:
            clean = np.full_like(clean, rng.normal(0, 0.5))
        deviation = math.exp(rng.uniform(math.log(LEAST), math.log(MOST)))
        noisy = clean + noise(clean, deviation, rng)
        unit = math.sqrt(1 + deviation**2) * math.exp(rng.uniform(-0.4, 0.4))  # a part is not like the whole
        shift = rng.normal(0, 0.2)
        inputs.append(torch.from_numpy(noisy / unit + shift))
        targets.append(torch.from_numpy(clean / unit + shift))
    found = torch.stack(inputs).float()
    return found, torch.stack(targets).float(), torch.ones_like(found)


def stage(network: FoldedUNet, number: int, folder: Path) -> tuple[FoldedUNet, list[Batch]]:
    """Train on one stage's textures; return the network, and batches of textures that it has not seen."""
    grain, plan = STAGES[number]
    seed = FIRST_SEED * (number + 1)
    rng = np.random.default_rng(seed)
    textures = torch.stack([torch.from_numpy(texture(SIDE, rng, grain)) for _ in range(TEXTURES)])
    learned, unseen = textures[:LEARNED], textures[LEARNED:]
    checkpoint = CheckpointFile(folder / f".stage{number}.safetensors", repr((plan, WIDTHS, seed)))
    network = fit(network, lambda step: draw(learned, seed, step), plan, _CPU, checkpoint)
    return network, [draw(unseen, seed, plan.steps + n) for n in range(30)]


def main(folder: Path) -> None:
    """Draw, train, calibrate on textures that were not trained on, write."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)
    torch.manual_seed(FIRST_SEED)
    network, unseen = FoldedUNet(), []
    for number in range(len(STAGES)):
        network, batches = stage(network, number, folder)
        unseen += batches
    network = network.half().float()  # as it is stored
    quantile, improvement = conformal_of(network, unseen, COVERAGE)
    write_model(
        folder / "images.safetensors",
        {name: value.half() for name, value in network.state_dict().items()},
        {"kind": KIND, "widths": list(WIDTHS)},
        licence="BSD-3-Clause",
        recipe=["python -m emflow.vem.weights.make_images FOLDER"],
        facts={
            "quantile": quantile,
            "coverage": COVERAGE,
            "held_out_improvement_db": improvement,
            "trained_on": f"{len(STAGES) * LEARNED} textures drawn by emflow.vem.textures; no other data",
        },
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(Path(sys.argv[1]))

"""On a real micrograph the deviation is as large as the error that independent pixels tell; skipped without data."""

from __future__ import annotations

from pathlib import Path

import torch

from emflow.denoise.inputs import load_model, load_restorer
from emflow.denoise.restorer import Sampling, sample_errors
from emflow.denoise.scale import to_scale
from emflow.denoise.trust import interleaved
from emflow.io.image import read_image
from emflow.nn.tiles import run_tiled

PIXEL = 1.5


def test_the_deviation_is_that_of_the_error(real_data: Path) -> None:
    """Of a mean m from one half and the other half y: E|m − s|² = ⟨m²⟩ − 2⟨m·y⟩ + ⟨x·y⟩, with no signal s known."""
    network, scale, model = load_model(None, torch.device("cpu"))
    restorer, widening, _ = load_restorer(None, model, torch.device("cpu"))
    image = torch.from_numpy(read_image(sorted((real_data / "apoferritin").glob("*.tif"))[7]))
    seen, witness = (to_scale(half, PIXEL, scale).z for half in interleaved(image.float()))
    mean = run_tiled(network, seen, 1024)
    moments, sample = sample_errors(restorer, seen, mean, Sampling(8, 2, 0, widening), 1024)
    errors = [
        float((found**2 - 2 * found * witness + seen * witness).mean()) ** 0.5
        for found in (mean + moments.mean(), mean + sample)
    ]
    told = float(moments.deviation().square().mean().sqrt())
    print(f"error {errors[0]:.3f}, of a sample {errors[1]:.3f}; deviation {told:.3f}")
    assert 0.5 < errors[0] / told < 2
    assert 1.1 < errors[1] / errors[0] < 1.8

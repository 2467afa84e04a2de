"""The picture of benchmarks/vem_sampling.py: an xz plane, spectra along the axis, power against loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import torch
from torch import Tensor

from emflow.vem.blocks import blocks_of
from emflow.vem.sampler import Sampler, assemble, sample_block
from emflow.vem.score import axial_spectra

if TYPE_CHECKING:
    from vem_sampling import Bench

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROW = 110
"""The xz plane that is shown; kept from the training of the sampler of the isotropic volume."""
SOURCE = "FIB-SEM of Drosophila medulla: neuroproof examples, Janelia, CC-BY"


def draw(bench: Bench, truth: Tensor, path: Path) -> None:
    """Draw from what the folder holds."""
    plain, axial = bench.sampler(), bench.sampler(isotropic=True)
    volumes = {
        "truth": truth,
        "restored mean": _filled(bench, plain, 0.0),
        "sample (learned from slices)": _filled(bench, plain, 1.0),
        "sample (learned from isotropic)": _filled(bench, axial, 1.0),
    }
    figure, axes = plt.subplots(2, 4, figsize=(11, 5.2), height_ratios=(1, 1.1), layout="constrained")
    for place, (name, values) in zip(axes[0], volumes.items(), strict=True):
        place.imshow(values[:, ROW], cmap="gray", vmin=40, vmax=210, interpolation="nearest")
        place.set_title(name, fontsize=9)
        place.axis("off")
    grid = axes[1, 0].get_gridspec()
    for place in axes[1]:
        place.remove()
    left, right = figure.add_subplot(grid[1, :2]), figure.add_subplot(grid[1, 2:])
    for name, values in list(volumes.items())[1:]:
        frequency, _, power = axial_spectra(values.permute(1, 0, 2), truth.permute(1, 0, 2))
        left.plot(frequency, power, label=name, lw=1)
    left.set(xlabel="frequency along the axis (Nyquist = 1)", ylabel="power / truth's", ylim=(0, 1.5))
    left.axhline(1, color="0.7", lw=0.5)
    left.legend(fontsize=7)
    base = bench.row("regression")["psnr_db"]
    for kind, label in (
        ("sampler_4_1_", "sampler, by temperature"),
        ("uniform_", "all frequencies alike"),
        ("matched_", "mean sharpened"),
    ):
        rows = [bench.row(path.stem) for path in bench.folder.glob(f"{kind}*.json")]
        points = sorted((base - row["psnr_db"], row["high_frequency_power"]) for row in rows)
        right.plot(*zip(*points, strict=True), "o-", ms=3, lw=1, label=label)
    right.axhline(0.7, color="0.7", lw=0.5)
    right.axvline(0.5, color="0.7", lw=0.5)
    right.set(xlabel="PSNR lost against the restored mean (dB)", ylabel="high-frequency power / truth's")
    right.legend(fontsize=7)
    figure.supxlabel(SOURCE, fontsize=7)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)


@torch.no_grad()
def _filled(bench: Bench, sampler: Sampler, temperature: float) -> Tensor:
    units, filler = bench.units(), sampler.filler
    _, (block,) = blocks_of(tuple(units.shape), (10_000,) * 3, sampler.reach(4))  # type: ignore[arg-type]
    mean, (texture,) = sample_block(sampler, units, block, (0,), 4)
    values = assemble(units, mean + temperature * sampler.deviation * texture, block)
    return values * filler.deviation + filler.mean

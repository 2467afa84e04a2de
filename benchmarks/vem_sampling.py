"""Texture-faithful sampling of a restored volume: quality against evaluations of a network, beside a diffusion model.

    python benchmarks/vem_sampling.py FOLDER [--rows NAME ...] [--ddpm-steps 450] [--write] [--figure]

The real FIB-SEM crop of Drosophila medulla (neuroproof examples, Janelia, CC-BY; EMFLOW_TEST_DATA names the folder that
holds fibsem_medulla/raw.tif), isotropic, of which every sixth slice is kept. Figures are of the missing slices (PSNR)
and of xz planes (SSIM, axial resolution, high-frequency power). The diffusion model (volume/ddpm.py) fills three gaps of
64 x 64 pixels only, for its cost; `_part` figures are of those, for all methods. MFLOP are counted by torch, two for a
multiplication with its addition, per filled voxel. Rows that FOLDER holds are not measured again. --write keeps the
figures in benchmarks/results/vem_sampling.json, --figure draws benchmarks/figures/vem_sampling.png.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from volume import ddpm

from emflow.io.volume import open_volume
from emflow.nn.unet import count_parameters
from emflow.nn.weights import CheckpointFile
from emflow.vem import command
from emflow.vem.blocks import blocks_of
from emflow.vem.config import VemTrain, VemTrainSampler
from emflow.vem.gaps import between, divide
from emflow.vem.inputs import read_filler
from emflow.vem.inputs_sample import read_examples, read_sampler
from emflow.vem.inputs_slices import Measured
from emflow.vem.restore import fill_block
from emflow.vem.sampler import Sampler, sample_block, tell
from emflow.vem.score import axial_resolution, axial_spectra, high_frequency_power, psnr, ssim
from emflow.vem.texture import axial_powers, filtered, fitted, narrow
from emflow.vem.train_sampler import whole

Row = dict[str, Any]
HERE = Path(__file__).parent
FACTOR, GAPS = 6, 18
CPU = torch.device("cpu")
VOXEL = (60.0, 10.0, 10.0)
PART = slice(6, 9), slice(32, 96), slice(32, 96)
"""Gaps, rows and columns that the diffusion model fills."""


@functools.cache
def truth() -> Tensor:
    """Isotropic truth from the first kept slice to the last, float32."""
    at = Path(os.environ.get("EMFLOW_TEST_DATA", "data")) / "fibsem_medulla" / "raw.tif"
    return torch.from_numpy(open_volume(at).read().astype(np.float32))[: GAPS * FACTOR + 1]


def target() -> Tensor:
    """Missing slices, (L, factor − 1, H, W)."""
    return truth()[:-1].unflatten(0, (-1, FACTOR))[:, 1:]


def figures(filled: Tensor, true: Tensor) -> Row:
    """Figures of filled gaps (L, factor − 1, H, W) against the truth (L·factor + 1, H, W)."""
    restored = true.clone()
    restored[:-1].unflatten(0, (-1, FACTOR))[:, 1:] = filled
    frequency, correlation, power = axial_spectra(restored.permute(1, 0, 2), true.permute(1, 0, 2))
    return {
        "psnr_db": round(psnr(filled, true[:-1].unflatten(0, (-1, FACTOR))[:, 1:], 255.0), 3),
        "ssim_xz": round(ssim(restored.permute(1, 0, 2), true.permute(1, 0, 2), 255.0), 4),
        "axial_resolution_voxels": round(axial_resolution(frequency, correlation), 2),
        "high_frequency_power": round(high_frequency_power(frequency, power), 3),
    }


def part_figures(filled: Tensor) -> Row:
    """The same of the part that the diffusion model fills."""
    gaps, y, x = PART
    true = truth()[gaps.start * FACTOR : gaps.stop * FACTOR + 1, y, x]
    return {f"{name}_part": value for name, value in figures(filled, true).items()}


class Bench:
    """The folder with what is trained once."""

    def __init__(self, folder: Path, ddpm_steps: int) -> None:
        self.folder, self.ddpm_steps = folder, ddpm_steps
        folder.mkdir(parents=True, exist_ok=True)

    def _file(self, isotropic: bool) -> Path:
        path = self.folder / ("isotropic.tif" if isotropic else "kept.tif")
        if not path.exists():
            volume = truth().numpy().astype(np.uint8)
            tifffile.imwrite(path, volume if isotropic else np.ascontiguousarray(volume[::FACTOR]))
        return path

    def model(self) -> Path:
        """The regression, trained on the kept slices."""
        out = self.folder / "model"
        if not (out / "model.json").exists():
            self._timed(out, lambda: command.train(self._file(False), out, cfg=VemTrain(voxel_nm=VOXEL)))
        return out

    def sampler(self, isotropic: bool = False) -> Sampler:
        """The sampler, trained on the kept slices, or on xz and yz planes of three quarters of the truth."""
        out = self.folder / ("sampler_isotropic" if isotropic else "sampler")
        if not (out / "sampler.json").exists():
            voxel = (10.0, 10.0, 10.0) if isotropic else VOXEL
            cfg = VemTrainSampler(voxel_nm=voxel)
            self._timed(out, lambda: command.train_sampler(self._file(isotropic), self.model(), out, cfg=cfg))
        return read_sampler(out, self.model(), CPU)[0]

    def _timed(self, out: Path, do: Callable[[], None]) -> None:
        start = time.process_time()
        do()
        (out / "cpu_s.json").write_text(json.dumps(time.process_time() - start))

    def units(self) -> Tensor:
        """Kept slices in the model's units."""
        filler = read_filler(self.model(), CPU)[0]
        return ((truth()[::FACTOR] - filler.mean) / filler.deviation).contiguous()

    def row(self, name: str) -> Row:
        """One row, measured if the folder does not hold it."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            kind, *numbers = name.split("_")
            row = getattr(self, f"_{kind}")(*(float(n) for n in numbers))
            path.write_text(json.dumps({"row": name, **row}))
        found: Row = json.loads(path.read_text())
        return found

    def _measured(self, make: Callable[[], Tensor]) -> Row:
        """Run a method, with its cost and figures."""
        start = time.process_time()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            filled = make()
        cost = (time.process_time() - start) / filled.numel() * 1e6
        mega = counter.get_total_flops() / filled.numel() / 1e6
        part = filled[PART[0], :, PART[1], PART[2]]
        about = {"mflop_per_voxel": round(mega, 4), "cpu_s_per_mvoxel": round(cost, 2)}
        return {**figures(filled, truth()), **part_figures(part), **about}

    def _linear(self) -> Row:
        return self._measured(lambda: between(truth()[::FACTOR].permute(1, 0, 2), FACTOR).permute(1, 2, 0, 3))

    def _regression(self) -> Row:
        filler = read_filler(self.model(), CPU)[0]
        units = self.units()
        return self._measured(lambda: fill_block(filler, units)[0] * filler.deviation + filler.mean)

    def _sampler(self, evaluations: float, samples: float, temperature: float) -> Row:
        return self._sampled(self.sampler(), int(evaluations), int(samples), temperature)

    def _isotropic(self, evaluations: float, samples: float, temperature: float) -> Row:
        row = self._sampled(
            self.sampler(isotropic=True), int(evaluations), int(samples), temperature, rows=96
        )
        return {**row, "rows": "from 96 on, kept from the training"}

    def _sampled(
        self, sampler: Sampler, evaluations: int, samples: int, temperature: float, rows: int = 0
    ) -> Row:
        units, filler = self.units(), sampler.filler
        _, (block,) = blocks_of(units.shape, (10_000,) * 3, sampler.reach(evaluations), sampler.filler.grid)
        kept: list[Tensor] = []

        def make() -> Tensor:
            mean, textures = sample_block(sampler, units, block, list(range(samples)), evaluations)
            kept[:] = [torch.stack(textures).mean(0), mean]
            gaps = mean + temperature * sampler.deviation * kept[0]
            return gaps * filler.deviation + filler.mean

        row = self._measured(make)
        if rows:
            gaps = kept[1] + temperature * sampler.deviation * kept[0]
            true = truth()[:, rows:]
            plain = figures(kept[1][..., rows:, :] * filler.deviation + filler.mean, true)
            row |= figures(gaps[..., rows:, :] * filler.deviation + filler.mean, true)
            row |= {f"{name}_regression": value for name, value in plain.items()}
        return row

    def _energy(self, evaluations: float) -> Row:
        """How far samples have more texture where the true error has: correlation over squares of 9 pixels a gap."""
        sampler, units = self.sampler(), self.units()
        _, (block,) = blocks_of(
            units.shape, (10_000,) * 3, sampler.reach(int(evaluations)), sampler.filler.grid
        )
        mean, textures = sample_block(sampler, units, block, list(range(4)), int(evaluations))
        error = torch.zeros_like(truth())
        error[:-1].unflatten(0, (-1, FACTOR))[:, 1:] = (
            target() - sampler.filler.mean
        ) / sampler.filler.deviation - mean
        wanted = fitted(filtered(error.permute(1, 0, 2), sampler.taps), FACTOR).permute(1, 0, 2)
        true = wanted[:-1].unflatten(0, (-1, FACTOR))[:, 1:]

        def energy(texture: Tensor) -> Tensor:
            return functional.avg_pool2d(texture.square().mean(1)[:, None], 9, 5).flatten()

        both = torch.stack([energy(true), torch.stack([energy(t) for t in textures]).mean(0)])
        kurtosis = [float((t**4).mean() / t.square().mean() ** 2) for t in (true, textures[0])]
        return {
            "texture_energy_correlation": round(float(torch.corrcoef(both)[0, 1]), 3),
            "kurtosis_true": round(kurtosis[0], 3),
            "kurtosis": round(kurtosis[1], 3),
        }

    def _uniform(self, loss_db: float) -> Row:
        """What a perfect sample has at the temperature of a loss: the true error of another place, scaled."""
        filler, units = read_filler(self.model(), CPU)[0], self.units()
        mean = fill_block(filler, units)[0] * filler.deviation + filler.mean
        elsewhere = (target() - mean).roll((mean.shape[2] // 2, mean.shape[3] // 2), (2, 3))
        scale = (10 ** (loss_db / 10) - 1) ** 0.5
        return self._measured(lambda: mean + scale * elsewhere)

    def _learned(self) -> tuple[Tensor, Tensor]:
        """Thinned-out planes that were learned from, and what the regression makes of them."""
        filler = read_filler(self.model(), CPU)[0]
        cfg = VemTrainSampler(voxel_nm=VOXEL)
        found = read_examples(Measured.of(open_volume(self._file(False)), None), VOXEL, filler, cfg)
        planes = found.learned.draw(FACTOR, 48, 96, torch.Generator().manual_seed(0))
        rows, _ = divide(planes, FACTOR)
        with torch.no_grad():
            return planes, whole(rows, tell(filler, rows).mean)

    def _matched(self, most: float) -> Row:
        """The restored mean filtered along the axis to the truth's power, with a gain of at most so much."""
        planes, filled = self._learned()
        gain = (axial_powers(planes) / axial_powers(filled)).sqrt().clamp(1, most)
        taps = narrow(gain - 1)
        filler, units = read_filler(self.model(), CPU)[0], self.units()

        def make() -> Tensor:
            mean = fill_block(filler, units)[0]
            volume = torch.cat([torch.cat([units[:-1, None], mean], 1).flatten(0, 1), units[-1:]])
            more = filtered(volume.permute(1, 0, 2), taps).permute(1, 0, 2)
            gaps = mean + more[:-1].unflatten(0, (GAPS, FACTOR))[:, 1:]
            return gaps * filler.deviation + filler.mean

        return self._measured(make)

    def _ddpm(self, evaluations: float) -> Row:
        slices = truth()[::FACTOR] / 127.5 - 1
        kept = self.folder / f"ddpm_trained_{self.ddpm_steps}.json"
        checkpoint = CheckpointFile(self.folder / f"ddpm_{self.ddpm_steps}.safetensors", "ddpm")
        start = time.process_time()
        network = ddpm.learn(slices, FACTOR, self.ddpm_steps, 0, checkpoint)
        if not kept.exists():
            kept.write_text(json.dumps(time.process_time() - start))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 3, 128, 128), torch.ones(1), torch.zeros(1))
        gaps, y, x = PART
        start = time.process_time()
        filled = torch.stack(
            [
                ddpm.fill(network, slices[g, y, x], slices[g + 1, y, x], FACTOR, int(evaluations), g)
                for g in range(gaps.start, gaps.stop)
            ]
        )
        cost = (time.process_time() - start) / filled.numel() * 1e6
        return {
            **part_figures((filled + 1) * 127.5),
            "mflop_per_voxel": round(counter.get_total_flops() / 128**2 / 1e6 * evaluations, 1),
            "cpu_s_per_mvoxel": round(cost, 1),
            "parameters": count_parameters(network),
            "training_steps": self.ddpm_steps,
            "train_cpu_s": json.loads(kept.read_text()),
        }


ROWS = [
    "linear",
    "regression",
    *(f"sampler_{n}_1_1" for n in (0, 1, 2, 4, 8)),
    *(f"sampler_{n}_4_1" for n in (0, 4)),
    *(f"sampler_4_1_{t}" for t in (0.5, 0.75, 1.25, 1.5, 2)),
    *(f"isotropic_{n}_1_1" for n in (0, 4)),
    *(f"uniform_{loss}" for loss in (0.5, 1.5, 3)),
    *(f"matched_{most}" for most in (2, 4, 100)),
    *(f"energy_{n}" for n in (0, 4)),
    "ddpm_200",
]
"""Method, then its numbers: of the sampler evaluations, samples that are averaged, temperature."""


def main() -> None:
    """Measure what is asked for and not yet there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", nargs="+", default=ROWS)
    parser.add_argument("--ddpm-steps", type=int, default=450)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--figure", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    bench = Bench(given.folder, given.ddpm_steps)
    rows = []
    for name in given.rows:
        rows.append(bench.row(name))
        print(json.dumps(rows[-1]), flush=True)
    if given.write:
        trained = {
            part: {
                "cpu_s": json.loads((given.folder / part / "cpu_s.json").read_text()),
                "metrics": json.loads((given.folder / part / "metrics.json").read_text()),
            }
            for part in ("model", "sampler", "sampler_isotropic")
        }
        line = "python " + " ".join(["benchmarks/vem_sampling.py", "FOLDER", *sys.argv[2:]])
        content = {"command": line, "torch": torch.__version__, "trained": trained, "rows": rows}
        (HERE / "results" / "vem_sampling.json").write_text(json.dumps(content, indent=1) + "\n")
    if given.figure:
        from volume.sampling_figure import draw

        draw(bench, truth(), HERE / "figures" / "vem_sampling.png")


if __name__ == "__main__":
    main()

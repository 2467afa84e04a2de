"""What a GPU gives: particles a second in the global search, its share of the device's peak, micrographs denoised.

    python benchmarks/gpu.py                       measure, and write benchmarks/results/gpu.json; without a GPU, nothing
    python benchmarks/gpu.py --device cpu --small  the same code on the CPU, to see that it runs; nothing is written
    python benchmarks/gpu.py --device cpu --operands 64   what rounded operands would change, which needs no GPU

peak      matrix products of float32 as the steps make them (`ieee`), with TF32 and bfloat16 operands: floating-point
          operations a second, the best of several
search    `search_globally` alone, images and references on the device: particles a second, and the operations of
          its two matrix products (2·T·2M·Q + 2·M·Q a particle) a second, as a share of the `ieee` peak
refine    `Refinement.find_poses` with a search everywhere: transforms, search, its halvings, the climb to the
          maximum, residual noise; images come from memory
operands  the products of the search with operands rounded to TF32 and bfloat16 (sums in float32), on any device: the
          share of particles whose best orientation is the same, and the largest error of a best log-likelihood
tf32      the search again with torch's TF32 switch: its speed, and the share of equal best orientations
denoise   `denoise` of a micrograph with the general model, in tiles: micrographs a second in float32, in bfloat16 and
          compiled; and the network's operations a second in tiles alone, as a share of the peak of those operands

Particles are projections of random lumps in noise at SNR 0.05 in the box, with random CTF; specimens fill 0.6 of
the box. Every figure is the best of three repetitions after one to warm up, the device waited for.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from emflow import __version__
from emflow.denoise.apply import denoise
from emflow.denoise.inputs import load_model
from emflow.device import prepare
from emflow.em.grids import orientation_grid, shift_grid
from emflow.em.images import ImageSet, weigh
from emflow.em.optics import Ctf, ctf_values
from emflow.em.pose_fit import FittedPoses
from emflow.em.poses import angular_distance_deg, quaternion_to_matrix
from emflow.em.search import References, WeightedImages, search_globally
from emflow.em.slices import volume_spectrum
from emflow.nn.fast import faster
from emflow.nn.tiles import run_tiled
from emflow.reconstruct.config import ReconstructRefine
from emflow.reconstruct.refine import HalfState, Refinement
from emflow.step import Execution

RESULTS = Path(__file__).parent / "results" / "gpu.json"
PIXEL = 1.5
SNR = 0.05
FILLED = 0.6


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    boxes: tuple[int, ...]
    particles: int
    micrograph_px: int
    matrix: int
    repetitions: int = 3


FULL = Sizes((128, 256), 8192, 4096, 8192)
SMALL = Sizes((32,), 24, 512, 256, 1)


def best(work: Callable[[], Any], device: torch.device, repetitions: int) -> float:
    """Shortest wall time of some work, in seconds."""

    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    once()
    return min(once() for _ in range(repetitions))


def peaks(device: torch.device, sizes: Sizes) -> dict[str, float]:
    """Operations a second of matrix products."""
    n = sizes.matrix
    a, b = (torch.randn(n, n, device=device) for _ in range(2))
    found = {"ieee": 2 * n**3 / best(lambda: a @ b, device, sizes.repetitions)}
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        found["tf32"] = 2 * n**3 / best(lambda: a @ b, device, sizes.repetitions)
        torch.backends.cuda.matmul.allow_tf32 = False
    c, d = a.bfloat16(), b.bfloat16()
    found["bf16"] = 2 * n**3 / best(lambda: c @ d, device, sizes.repetitions)
    return found


def particles(box: int, count: int, device: torch.device) -> tuple[ImageSet, Tensor]:
    """Images in memory, and the map that they show."""
    random = torch.Generator().manual_seed(box)
    line = (torch.arange(box) - box // 2).float()
    atoms = torch.randn(60, 3, generator=random)
    atoms = (
        atoms
        / atoms.norm(dim=1, keepdim=True)
        * (0.27 * box * torch.rand(60, 1, generator=random) ** (1 / 3))
    )
    x, y, z = (torch.exp(-((line - atoms[:, i : i + 1]) ** 2) / (2 * 1.5**2)) for i in range(3))
    volume = torch.einsum("az,ay,ax->zyx", z, y, x).to(device)
    q = torch.randn(count, 4, generator=random)
    rotations = quaternion_to_matrix(q / q.norm(dim=1, keepdim=True)).to(device)
    defocus = 0.8 + 1.2 * torch.rand(count, generator=random)
    ctf = Ctf(defocus, defocus, 0 * defocus)
    images = torch.empty(count, box, box)
    spectrum = volume_spectrum(volume, box / 2 - 1)
    empty = ImageSet(
        lambda rows: images[rows],
        lambda rows, fy, fx: ctf_values(ctf[rows], fy.cpu(), fx.cpu()).to(fy.device),
        box,
        PIXEL,
        torch.ones(count, dtype=torch.long),
        torch.zeros(count, dtype=torch.long),
        device,
    )
    plane = empty.plane(box / 2)
    for rows in torch.arange(count).split(256):
        values = spectrum.slices(rotations[rows.to(device)], plane)
        values = values * empty.ctf(rows, plane.ky / (box * PIXEL), plane.kx / (box * PIXEL))[:, None] * box
        full = torch.zeros(len(rows), box, box // 2 + 1, dtype=torch.complex64, device=device)
        full[:, plane.ky.long() % box, plane.kx.long()] = torch.complex(values[:, 0], values[:, 1])
        mates = torch.arange(1, box // 2, device=device)
        full[:, box - mates, 0] = full[:, mates, 0].conj()
        clean = torch.fft.fftshift(torch.fft.irfft2(full, s=(box, box)), dim=(1, 2)).cpu()
        clean *= (SNR / clean.var(dim=(1, 2)).mean()) ** 0.5
        images[rows] = clean + torch.randn(clean.shape, generator=random)
    return empty, volume


def search(box: int, device: torch.device, sizes: Sizes, peak: float) -> list[dict[str, Any]]:
    """The global search alone, with TF32, and within a refinement."""
    images, volume = particles(box, sizes.particles, device)
    diameter_px = FILLED * box
    refinement = Refinement(
        images, diameter_px * PIXEL, ReconstructRefine(diameter_angstrom=diameter_px * PIXEL)
    )
    plane = refinement.plane.within(refinement.first_band)
    grid = orientation_grid(refinement.spacing_deg(float(plane.radius[-1])), "C1").to(device)
    references = References.make(volume_spectrum(volume, float(plane.radius[-1])), grid, plane)
    reach = refinement.cfg.shift_fraction * diameter_px
    shifts = shift_grid(reach, reach / 3).to(device)
    state = refinement.begin((volume, volume), torch.zeros(box // 2 + 1))
    half = state.halves[0]
    few = half.rows[: min(len(half.rows), 512)]
    transforms, ctf = images.transforms(few, refinement.plane)
    weighted = weigh(transforms, ctf, half.noise, images.group[few], refinement.plane).within(len(plane))

    def look() -> Any:
        return search_globally(weighted, references, plane, shifts, 8)

    operations = 2 * len(plane) * len(grid) * (2 * len(shifts) + 1)
    seconds = best(look, device, sizes.repetitions)
    lines: list[dict[str, Any]] = [
        {
            "measured": "search",
            "box_px": box,
            "pixels": len(plane),
            "orientations": len(grid),
            "shifts": len(shifts),
            "particles_per_s": len(few) / seconds,
            "operations_per_s": operations * len(few) / seconds,
            "share_of_peak": operations * len(few) / seconds / peak,
        }
    ]
    rounded = operands(weighted, references, plane.phases(shifts))
    lines.append({"measured": "operands", "box_px": box, "particles": len(few), **rounded})
    if device.type == "cuda":
        exact = look().rotations[:, 0].cpu()
        torch.backends.cuda.matmul.allow_tf32 = True
        seconds = best(look, device, sizes.repetitions)
        rough = look().rotations[:, 0].cpu()
        torch.backends.cuda.matmul.allow_tf32 = False
        away = angular_distance_deg(exact, rough)
        lines.append(
            {
                "measured": "tf32",
                "box_px": box,
                "particles_per_s": len(few) / seconds,
                "same_orientation": float((away < 0.01).float().mean()),
                "largest_difference_deg": float(away.max()),
            }
        )
    band = min(refinement.nyquist, 1.5 * refinement.first_band)
    begin = HalfState(half.rows, half.volume, half.noise, FittedPoses.unknown(len(half.rows)))
    seconds = best(
        lambda: refinement.find_poses(begin, band, True, torch.Generator().manual_seed(0)), device, 1
    )
    rate = {"measured": "refine", "box_px": box, "particles_per_s": len(half.rows) / seconds}
    return [*lines, rate]


def tf32(values: Tensor) -> Tensor:
    """Round to ten bits of mantissa."""
    return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def bf16(values: Tensor) -> Tensor:
    """Round to seven bits of mantissa."""
    return values.bfloat16().float()


def operands(images: WeightedImages, references: References, phases: Tensor) -> dict[str, float]:
    """What rounded operands change in the choice of the best orientation."""
    same, error = {"tf32": 0, "bf16": 0}, {"tf32": 0.0, "bf16": 0.0}
    for start in range(0, len(images), 16):
        batch = images[start : start + 16]
        moved = batch.shifted(phases).flatten(2)

        def likeliest(
            rounded: Callable[[Tensor], Tensor], moved: Tensor = moved, power: Tensor = batch.power
        ) -> tuple[Tensor, Tensor]:
            scores = rounded(moved) @ rounded(references.slices)
            scores -= (rounded(power) @ rounded(references.power))[:, None]
            best_shift = scores.amax(1)
            return best_shift.max(1).values, best_shift.argmax(1)

        top, orientation = likeliest(lambda values: values)
        for name, rounded in (("tf32", tf32), ("bf16", bf16)):
            score, found = likeliest(rounded)
            same[name] += int((found == orientation).sum())
            error[name] = max(error[name], float((score - top).abs().max()))
    shares = {f"same_{name}": count / len(images) for name, count in same.items()}
    return shares | {f"score_error_{name}": value for name, value in error.items()}


def denoised(device: torch.device, sizes: Sizes, peak: dict[str, float]) -> list[dict[str, Any]]:
    """Micrographs a second with the general model, and what its network reaches of the device's peak."""
    network, scale, _ = load_model(None, device)
    n = sizes.micrograph_px
    image, tile = (
        torch.randn(side, side, generator=torch.Generator().manual_seed(0)).to(device)
        for side in (n, min(n, 1024))
    )
    with FlopCounterMode(display=False) as counted:
        run_tiled(network, tile)
    lines = []
    for half, compiled in ((False, False), (True, False), (True, True)):
        if compiled and device.type != "cuda":
            continue
        run = faster(network, half, compiled)
        seconds = best(lambda: denoise(image, PIXEL, run, scale, 1024, False), device, sizes.repetitions)  # noqa: B023
        alone = best(lambda: run_tiled(run, tile), device, sizes.repetitions)  # noqa: B023
        rate = counted.get_total_flops() / alone
        about = {"measured": "denoise", "micrograph_px": n, "half": half, "compiled": compiled}
        speed = {"micrographs_per_s": 1 / seconds, "megapixels_per_s": n * n / 1e6 / seconds}
        lines.append(
            about | speed | {"operations_per_s": rate, "of_peak": rate / peak["bf16" if half else "ieee"]}
        )
    return lines


def measure(device: torch.device, sizes: Sizes) -> list[dict[str, Any]]:
    """All measurements."""
    peak = peaks(device, sizes)
    lines: list[dict[str, Any]] = [{"measured": "peak", "matrix": sizes.matrix, **peak}]
    for box in sizes.boxes:
        lines += search(box, device, sizes, peak["ieee"])
    lines += denoised(device, sizes, peak)
    for line in lines:
        for name, value in line.items():
            if isinstance(value, float):
                assert math.isfinite(value)
                line[name] = float(f"{value:.4g}")
    if device.type == "cuda":
        lines.append(
            {"measured": "memory", "peak_gb": round(torch.cuda.max_memory_allocated(device) / 1e9, 2)}
        )
    return lines


def main() -> None:
    """Measure; write what a GPU gave."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N or cpu")
    parser.add_argument(
        "--operands", type=int, metavar="BOX", help="measure only what rounding changes, on 512 particles"
    )
    parser.add_argument("--small", action="store_true", help="tiny sizes: to see that it runs")
    given = parser.parse_args()
    device = prepare(Execution(device=given.device))
    if device.type != "cuda" and given.device == "auto":
        print("No GPU here: nothing measured, nothing written. --device cpu --small shows that it runs.")
        return
    if given.operands:
        sizes = Sizes((given.operands,), 512, 512, 256, 1)
        print(json.dumps(search(given.operands, device, sizes, math.inf)[1]))
        return
    lines = measure(device, SMALL if given.small else FULL)
    for line in lines:
        print(json.dumps(line))
    if device.type != "cuda" or given.small:
        print("Not written: figures of a GPU at full size only.")
        return
    about = {
        "command": "python benchmarks/gpu.py",
        "device": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "emflow": __version__,
        "machine": platform.machine(),
    }
    RESULTS.write_text(json.dumps({**about, "results": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()

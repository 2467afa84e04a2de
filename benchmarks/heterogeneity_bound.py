"""What no mean map can be better than: the information in the images, beside back-projection and the fit's own.

    python benchmarks/heterogeneity_bound.py FOLDER [faint ...] [--seed 0] [--write]

FOLDER is that of `benchmarks/heterogeneity.py`, its conditions simulated and fitted. An unbiased map within the mask
has in each shell the noise power fill / Σ C²/σ², fill the mean square of the mask: the area under √(S/(S + N)), S the power
of the true mean map, is the bound of all maps that know no more of where the particle is than the mask says. Areas are
those of `running/latent_measures.py`, to shells 15, 28 and 31: to the true mean map, and (states) to the true
volumes of the images. The mask carries information over the edge of the band, so that the bound ends at shell 28.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from running.latent_measures import Truth
from torch import Tensor

from emflow.em.basis import BasisGrid
from emflow.em.fsc import fsc, shell_index, shell_sum
from emflow.em.wiener import reconstruct_from_poses
from emflow.heterogeneity.config import HeterogeneityFit
from emflow.heterogeneity.inputs import open_stack, posed_batches, read_posed
from emflow.heterogeneity.model import Stack, image_power, weights
from emflow.io.mrc import read_mrc

BANDS = {"coarse": 15, "inner": 28, "fine": 31}
SHELLS = (5, 10, 15, 20, 25, 28)
RESULTS = Path(__file__).parent / "results" / "heterogeneity_bound.json"


def information(stack: Stack) -> Tensor:
    """Mean of Σ C²/σ² over each shell, for each cubic step of the unpadded Fourier grid."""
    plane, rows = stack.plane, torch.arange(len(stack.rotations))
    band = float(plane.radius[-1])
    grid = BasisGrid.build(plane.box, band)
    noise = image_power(stack, rows)
    sums = torch.zeros(grid.points, 1)
    for _, part, _, ctf in stack.batches(rows, plane):
        power = ctf * ctf * weights(stack, part, plane, noise)
        sums += grid.scatter(power.reshape(-1, 1), grid.locate(stack.rotations[part], plane))
    grid.add_mates(sums, 1)
    inside, radius = grid.radius() <= band, grid.radius()
    shell = torch.floor(radius[inside] + 0.5).long()
    times = grid.multiplicity()[inside]
    total = torch.zeros(int(shell.max()) + 1).index_add_(0, shell, times * sums[inside, 0])
    count = torch.zeros_like(total).index_add_(0, shell, times)
    return total / count * grid.padding**3


def areas(volume_curve: Tensor, name: str) -> dict[str, float]:
    """Areas of a curve to each band's last shell."""
    return {
        f"{name}_{band}": round(float(volume_curve[1 : last + 1].mean()), 4) for band, last in BANDS.items()
    }


def judge(folder: Path, seed: int) -> dict[str, object]:
    """All figures of a condition."""
    began = time.process_time()
    truth = Truth.read(folder)
    mask, n = truth.mask(), truth.mask().shape[-1]
    true = torch.from_numpy(read_mrc(folder / "truth" / "volume.mrc").copy()) * mask
    states = [truth.volume(int(state)) * mask for state in truth.state[truth.images()]]
    posed = read_posed(folder / "particles.star")
    whole = np.arange(len(posed.half))
    back = reconstruct_from_poses(
        posed_batches(posed.particles, whole, torch.device("cpu")), n, posed.pixel_size_angstrom
    )
    maps = {"back_projection": back * mask}
    fitted = folder / f"emflow_{seed}_4" / "fit" / "mean.mrc"
    if fitted.is_file():
        maps["fit"] = torch.from_numpy(read_mrc(fitted).copy()) * mask
    with tempfile.TemporaryDirectory() as scratch:
        stack = open_stack(posed, HeterogeneityFit(), Path(scratch) / "store", torch.device("cpu"))
        known, scale = information(stack), stack.spectra.scale
    index = shell_index(n)
    spectrum = torch.fft.rfftn(true)
    ones = shell_sum(torch.ones_like(index, dtype=torch.float32), index)
    power = shell_sum(spectrum.abs().square(), index)
    gain = shell_sum((torch.fft.rfftn(maps["back_projection"]) * spectrum.conj()).real, index) / power
    shells = min(len(known), len(power))
    signal = (power / ones * gain.square())[:shells]
    noise = float(mask.square().mean()) * n**2 * scale**2 / known[:shells]
    bound = (signal / (signal + noise)).sqrt()
    same = torch.stack([fsc(true[None], state)[0] for state in states]).mean(0)[:shells]
    told = areas(bound, "bound") | areas(bound * same, "bound_states")
    out: dict[str, object] = {name: value for name, value in told.items() if not name.endswith("fine")}
    curves = {"bound": bound} | {name: fsc(v[None], true)[0] for name, v in maps.items()}
    for name, volume in maps.items():
        out |= areas(curves[name], name)
        to_states = torch.stack([fsc(volume[None], state)[0] for state in states]).mean(0)
        out |= areas(to_states, f"{name}_states")
    out["shells"] = list(SHELLS)
    out |= {f"{name}_fsc": [round(float(curve[k]), 3) for k in SHELLS] for name, curve in curves.items()}
    return out | {"cpu_s": round(time.process_time() - began, 1)}


def main() -> None:
    """Judge the conditions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("conditions", nargs="*", default=["faint"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for condition in given.conditions:
        results[condition] = judge(given.folder.resolve() / condition, given.seed)
        print(condition, json.dumps(results[condition]), flush=True)
    if given.write:
        about = {
            "command": "python benchmarks/heterogeneity_bound.py FOLDER faint --write",
            "results": results,
        }
        RESULTS.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()

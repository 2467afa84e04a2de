"""How often is the hand of a map told, and told wrongly? Simulated specimens of known hand, half of them mirrored.

    python benchmarks/hand.py [--first SEED] [--count NUMBER]

The seeds begin beyond those that anything in emflow/validate/hand.py was set on (100 to 139). Resolution is that of
the unmasked half maps (FSC 0.143, white noise). The result is benchmarks/results/hand.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import emflow
from emflow.device import generator
from emflow.em.fsc import radial_average, shell_index
from emflow.simulate.density import potential
from emflow.simulate.specimen import generate_specimen
from emflow.simulate.structure import ATOMS_PER_RESIDUE
from emflow.validate.hand import measure_windings

VOXEL = 1.5
KINDS = ((30, 50, 56), (60, 65, 64), (120, 85, 80))
"""Mass (kDa), diameter (Å) and box of the specimens."""
B_FACTORS = (30, 60, 100, 150)
RESOLUTIONS = (4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 10.0)
CLAIMED = 0.95


def specimen(seed: int) -> tuple[Tensor, float]:
    """Density of a specimen, and the part of its residues that lie in helices (Cα to the third next: 4.5 to 5.6 Å)."""
    mass, diameter, box = KINDS[seed % 3]
    atoms = generate_specimen(mass, diameter, 1 + seed % 3, np.random.default_rng(seed))
    alpha = atoms.position.reshape(-1, ATOMS_PER_RESIDUE, 3)[:, 1]
    reach = np.linalg.norm(alpha[3:] - alpha[:-3], axis=1)
    return potential(atoms, box, VOXEL, B_FACTORS[seed % 4]), float(((reach > 4.5) & (reach < 5.6)).mean())


def noisy(volume: Tensor, resolution: float, seed: int) -> Tensor:
    """Mean of two half maps whose FSC falls through 0.143 at a resolution: S/N of a half is 1/6 there."""
    n = volume.shape[-1]
    power = radial_average(torch.fft.rfftn(volume).abs().square(), shell_index(n))
    level = 6 * float(power[round(n * VOXEL / resolution)]) / n**3
    noise = [torch.randn(volume.shape, generator=generator(seed, k)) for k in (1, 2)]
    return volume + (noise[0] + noise[1]) / 2 * level**0.5


def judge(seed: int) -> list[dict[str, object]]:
    """What is told of one specimen at each resolution."""
    volume, helical = specimen(seed)
    rows: list[dict[str, object]] = []
    for number, resolution in enumerate(RESOLUTIONS):
        mean = noisy(volume, resolution, 10 * seed + number)
        mirrored = (seed + number) % 2 == 1
        if mirrored:
            mean = mean.flip((seed + number) // 2 % 3)
        found = measure_windings(mean, VOXEL, resolution)
        right = found.probability if not mirrored else 1 - found.probability
        told = "right" if right >= CLAIMED else "wrong" if right <= 1 - CLAIMED else "cannot tell"
        rows.append({"seed": seed, "helical": round(helical, 3), "resolution": resolution, "told": told})
    return rows


def main() -> None:
    """Judge all specimens, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--first", type=int, default=1000)
    parser.add_argument("--count", type=int, default=40)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in range(asked.first, asked.first + asked.count):
        rows += judge(seed)
        print(seed, [row["told"] for row in rows[-len(RESOLUTIONS) :]], flush=True)
    counts = {
        kind: {
            f"{resolution:g} Å": {
                told: sum(
                    row["told"] == told
                    and row["resolution"] == resolution
                    and (float(str(row["helical"])) >= 0.3) == (kind == "helical")
                    for row in rows
                )
                for told in ("right", "wrong", "cannot tell")
            }
            for resolution in RESOLUTIONS
        }
        for kind in ("helical", "others")
    }
    result = {
        "command": " ".join(["python", *sys.argv]),
        "emflow": emflow.__version__,
        "cpu_s": round(time.process_time(), 1),
        "counts": counts,
        "rows": rows,
    }
    path = Path(__file__).parent / "results" / "hand.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(counts, indent=1))


if __name__ == "__main__":
    main()

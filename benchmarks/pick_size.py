"""The diameter that `pick size` tells, beside the true one, over simulated specimens of 80 to 400 Å.

    python benchmarks/pick_size.py FOLDER [DIAMETER...]

FOLDER gets the sessions and size.json of each; what it holds is not made again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SESSIONS = {  # nominal diameter in Å: pixel size in Å, mass in kDa, signal to noise, seed
    80: (1.6, 60, 0.12, 911),
    130: (2.0, 250, 0.08, 912),
    200: (3.0, 900, 0.08, 913),
    290: (4.0, 2500, 0.08, 914),
    400: (5.0, 6000, 0.06, 915),
}
COMMON = (
    "--n-micrographs 2 --micrograph-size-px 768 --n-carbon-micrographs 0 --aggregates-per-micrograph 0 "
    "--particles-per-micrograph 45 --ice-texture grains --device cpu --threads 1"
)


def emflow(*words: str) -> None:
    """Run an emflow command."""
    subprocess.run([sys.executable, "-m", "emflow.cli", *words], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Make what is missing, print a line for each specimen."""
    folder = Path(sys.argv[1])
    for nominal in [int(word) for word in sys.argv[2:]] or list(SESSIONS):
        pixel, mass, snr, seed = SESSIONS[nominal]
        session = folder / f"d{nominal}"
        if not (session / "truth" / "facts.json").exists():
            words = (
                f"--diameter-angstrom {nominal} --pixel-size-angstrom {pixel} --mass-kda {mass} --snr {snr}"
            )
            emflow("simulate", "session", str(session), *words.split(), "--seed", str(seed), *COMMON.split())
        facts = json.loads((session / "truth" / "facts.json").read_text(encoding="utf-8"))
        out = session / "size.json"
        if not out.exists():
            words = f"--pixel-size-angstrom {pixel} --contrast dark --device cpu --threads 1"
            emflow("pick", "size", str(session / "micrographs"), str(out), *words.split())
        told = json.loads(out.read_text(encoding="utf-8"))["diameter_angstrom"]
        true = facts["diameter_angstrom"]
        print(f"true {true:.0f} Å, told {told:.0f} Å, ratio {told / true:.2f}", flush=True)


if __name__ == "__main__":
    main()

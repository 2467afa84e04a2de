"""RELION 3.1.3 as `benchmarks/reconstruct.py` runs it: commands, and the CPU time of each rank apart.

    python benchmarks/reconstruct_peer.py RANKS_FOLDER PROGRAM ARGUMENT...    (what mpirun starts, once per rank)

Debian's `relion` (apt-get install -y --no-install-recommends relion openmpi-bin) is the double-precision CPU
path, RELION's slow one; its accelerated builds are several times faster.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

PROGRAM = "relion_refine_mpi"
RANKS = 3


@dataclass(frozen=True)
class Cost:
    """What a run of RELION took."""

    workers_cpu_s: float
    """User and system time of the ranks that see particles."""
    leader_cpu_s: float
    """Of the rank that hands out work: mostly waiting for messages."""
    peak_memory_mb: float
    """Largest resident set of a worker; there are two."""
    wall_s: float
    command: str
    version: str


def installed() -> bool:
    """Whether RELION and MPI can be run."""
    return all(shutil.which(program) for program in (PROGRAM, "mpirun"))


def version() -> str:
    """What RELION says of itself."""
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=False).stdout
    return " ".join(said.split())


def auto_refine(symmetry: str, mask_diameter_angstrom: float) -> list[str]:
    """Arguments of a blind gold-standard refinement; paths are relative to the set's folder."""
    return [
        "--i", "particles.star", "--ref", "start/half1.mrc", "--o", "relion/run",
        "--auto_refine", "--split_random_halves", "--ini_high", "30", "--low_resol_join_halves", "40",
        "--ctf", "--norm", "--scale", "--flatten_solvent", "--zero_mask",
        "--particle_diameter", f"{mask_diameter_angstrom:.0f}", "--sym", symmetry,
        "--healpix_order", "2", "--auto_local_healpix_order", "4", "--oversampling", "1",
        "--offset_range", "5", "--offset_step", "2", "--pad", "2", "--random_seed", "1",
        "--dont_combine_weights_via_disc", "--j", "1",
    ]  # fmt: skip


def classify_2d(mask_diameter_angstrom: float, classes: int, iterations: int) -> list[str]:
    """Arguments of a 2D classification with RELION's usual settings."""
    return [
        "--i", "particles.star", "--o", "relion_2d/run", "--K", str(classes), "--iter", str(iterations),
        "--tau2_fudge", "2", "--ctf", "--norm", "--scale", "--flatten_solvent", "--zero_mask",
        "--particle_diameter", f"{mask_diameter_angstrom:.0f}", "--psi_step", "12", "--oversampling", "1",
        "--offset_range", "5", "--offset_step", "2", "--pad", "2", "--random_seed", "1",
        "--dont_combine_weights_via_disc", "--j", "1",
    ]  # fmt: skip


def measure(folder: Path, arguments: list[str], niceness: int) -> Cost:
    """Run RELION in a set's folder, or return what an earlier run there took."""
    out = (folder / arguments[arguments.index("--o") + 1]).parent
    kept = out / "cost.json"
    if kept.is_file():
        return Cost(**json.loads(kept.read_text()))
    if out.exists():  # a run that was killed
        shutil.rmtree(out)
    out.mkdir()
    mpi = ["mpirun", "-n", str(RANKS), "--oversubscribe", "--allow-run-as-root"]
    mpi += ["--mca", "mpi_yield_when_idle", "1"]
    timed = [sys.executable, str(Path(__file__).resolve()), str(out.resolve())]
    began = time.monotonic()
    with (out / "log.txt").open("w") as log:
        subprocess.run(
            ["nice", "-n", str(niceness), *mpi, *timed, PROGRAM, *arguments],
            check=True,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    ranks = [json.loads((out / f"rank_{rank}.json").read_text()) for rank in range(RANKS)]
    cost = Cost(
        workers_cpu_s=round(sum(rank["cpu_s"] for rank in ranks[1:]), 1),
        leader_cpu_s=round(ranks[0]["cpu_s"], 1),
        peak_memory_mb=round(max(rank["memory_mb"] for rank in ranks[1:]), 1),
        wall_s=round(time.monotonic() - began, 1),
        command=" ".join([*mpi, PROGRAM, *arguments]),
        version=version(),
    )
    kept.write_text(json.dumps(asdict(cost), indent=1) + "\n")
    return cost


def time_rank(out: Path, command: list[str]) -> int:
    """Run one rank; write its CPU time and peak memory."""
    done = subprocess.run(command, check=False)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {"cpu_s": used.ru_utime + used.ru_stime, "memory_mb": used.ru_maxrss / 1024}
    (out / f"rank_{os.environ['OMPI_COMM_WORLD_RANK']}.json").write_text(json.dumps(figures))
    return done.returncode


if __name__ == "__main__":
    sys.exit(time_rank(Path(sys.argv[1]), sys.argv[2:]))

"""RELION 3.1.3 as `benchmarks/reconstruct.py` runs it: commands, and the CPU time of each rank apart.

    python benchmarks/reconstruction/peer.py OUT PROGRAM ARGUMENT...    (what mpirun starts, once per rank)

Debian's `relion` (apt-get install -y --no-install-recommends relion openmpi-bin) is the double-precision CPU
path, RELION's slow one; its accelerated builds are several times faster.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
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


def measure(folder: Path, arguments: list[str], niceness: int) -> Cost:
    """Run RELION in a set's folder, or return what an earlier run there took; a killed run goes on."""
    prefix = folder / arguments[arguments.index("--o") + 1]
    out = prefix.parent
    kept = out / "cost.json"
    if kept.is_file():
        return Cost(**json.loads(kept.read_text()))
    out.mkdir(exist_ok=True)
    mpi = ["mpirun", "-n", str(RANKS), "--oversubscribe", "--allow-run-as-root"]
    mpi += ["--mca", "mpi_yield_when_idle", "1"]
    timed = [sys.executable, str(Path(__file__).resolve()), str(out.resolve())]
    if not prefix.with_name(f"{prefix.name}_model.star").is_file():
        with (out / "log.txt").open("a") as log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SystemExit(f"{out}: RELION is running here already; wait, or give --no-peer.") from None
            subprocess.run(
                ["nice", "-n", str(niceness), *mpi, *timed, PROGRAM, *_go_on(prefix, arguments)],
                check=True,
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
    ranks = [_samples(out, rank) for rank in range(RANKS)]
    cost = Cost(
        workers_cpu_s=round(sum(_cpu(samples) for samples in ranks[1:]), 1),
        leader_cpu_s=round(_cpu(ranks[0]), 1),
        peak_memory_mb=round(max(sample["memory_mb"] for samples in ranks[1:] for sample in samples), 1),
        command=" ".join([*mpi, PROGRAM, *arguments]),
        version=version(),
    )
    kept.write_text(json.dumps(asdict(cost), indent=1) + "\n")
    return cost


def _go_on(prefix: Path, arguments: list[str]) -> list[str]:
    """Arguments that start a run, or go on after its last whole iteration; CPU time after that is forgotten."""
    done = sorted(prefix.parent.glob(f"{prefix.name}_it*_optimiser.star"))
    until = done[-1].stat().st_mtime if done else 0.0
    for rank in range(RANKS):
        path = prefix.parent / f"rank_{rank}.jsonl"
        whole = [sample for sample in _samples(prefix.parent, rank) if sample["time"] <= until]
        path.write_text("".join(json.dumps(sample) + "\n" for sample in whole))
    if not done:
        return arguments
    return ["--continue", str(done[-1].resolve()), "--o", arguments[arguments.index("--o") + 1], "--j", "1"]


def _samples(out: Path, rank: int) -> list[dict[str, float]]:
    path = out / f"rank_{rank}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _cpu(samples: list[dict[str, float]]) -> float:
    """CPU seconds of a rank over all processes that it was."""
    last = {sample["process"]: sample["cpu_s"] for sample in samples}
    return sum(last.values())


def time_rank(out: Path, command: list[str]) -> int:
    """Run one rank; note its CPU time and peak memory every few seconds, for it may be killed."""
    process = subprocess.Popen(command)
    with (out / f"rank_{os.environ['OMPI_COMM_WORLD_RANK']}.jsonl").open("a") as log:
        while True:
            sample = _sample(process.pid)
            if sample is not None:
                log.write(json.dumps(sample) + "\n")
                log.flush()
            try:
                return process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                continue


def _sample(pid: int) -> dict[str, float] | None:
    """CPU seconds and peak memory of a process as Linux tells them; None once it has ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    if peak is None:
        return None
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return {
        "process": pid,
        "time": time.time(),
        "cpu_s": (int(user) + int(system)) / os.sysconf("SC_CLK_TCK"),
        "memory_mb": int(peak[1]) / 1024,
    }


if __name__ == "__main__":
    sys.exit(time_rank(Path(sys.argv[1]), sys.argv[2:]))

"""CPU-seconds and peak memory of a program that is not ours, at its checkpoints and in the end."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

_EVERY_S = 2.0


@dataclass
class Cost:
    """What a program took."""

    cpu_s: float = 0.0
    peak_mb: float = 0.0
    """Largest resident memory of its processes together, as sampled."""
    checkpoints: dict[str, float] = field(default_factory=dict)
    """CPU-seconds when a file was first seen, by its name."""
    stopped: str = ""
    """Why it was ended before its own end."""
    code: int = 0
    """Exit code; of a program that was stopped, minus the signal."""


def watched(
    command: list[str], log: Path, pattern: tuple[Path, str], most_cpu_s: float = 1e9, most_mb: float = 1e9
) -> Cost:
    """Run a program on one thread until it ends, or has used more than it may.

    Parameters
    ----------
    command
        Program and words.
    log
        Where its output goes.
    pattern
        Folder and glob of the checkpoints.
    most_cpu_s, most_mb
        What ends it.
    """
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = os.environ | dict.fromkeys(threads, "1")
    environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    log.parent.mkdir(parents=True, exist_ok=True)
    cost = Cost()
    with log.open("ab") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        atexit.register(_end, child.pid)
        while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
            time.sleep(_EVERY_S)
            cpu, memory = _used(child.pid)
            cost.cpu_s, cost.peak_mb = max(cost.cpu_s, cpu), max(cost.peak_mb, memory)
            for path in pattern[0].glob(pattern[1]):
                cost.checkpoints.setdefault(path.name, round(cost.cpu_s, 1))
            if cost.cpu_s > most_cpu_s or cost.peak_mb > most_mb:
                cost.stopped = "CPU-seconds" if cost.cpu_s > most_cpu_s else "memory"
                _end(child.pid)
                ended = os.wait4(child.pid, 0)
                break
        atexit.unregister(_end)
        usage = ended[2]
        cost.code = os.waitstatus_to_exitcode(ended[1])
        child.returncode = cost.code
        cost.cpu_s = max(cost.cpu_s, usage.ru_utime + usage.ru_stime)
        cost.peak_mb = max(cost.peak_mb, usage.ru_maxrss / 1024)
    for path in pattern[0].glob(pattern[1]):
        cost.checkpoints.setdefault(path.name, round(cost.cpu_s, 1))
    return cost


def _end(session: int) -> None:
    os.killpg(session, signal.SIGTERM)


def _used(session: int) -> tuple[float, float]:
    """CPU-seconds and resident megabytes of a process session, ended children included."""
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    cpu, memory = 0.0, 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[3]) == session:
            cpu += sum(int(words[place]) for place in (11, 12, 13, 14)) / tick
            memory += int(words[21]) * page / 2**20
    return cpu, memory

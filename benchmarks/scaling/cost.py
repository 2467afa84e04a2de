"""CPU time and memory of one command, its children included."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    cpu_s: float
    peak_mb: float
    code: int
    said: str


def cost(
    words: Sequence[str | Path],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    watch: Callable[[int], None] | None = None,
) -> Cost:
    """Run a command in a folder on one thread; CPU-seconds with all children, peak memory of the largest process.

    ``watch`` is called with the process's id all the time until it ends.
    """
    log = folder / "said.txt"
    env = os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {})
    with open(log, "wb") as handle:
        process = subprocess.Popen(
            [str(word) for word in words], cwd=folder, env=env, stdout=handle, stderr=subprocess.STDOUT
        )
        usage = None
        while watch is not None and usage is None:
            watch(process.pid)
            pid, status, found = os.wait4(process.pid, os.WNOHANG)
            usage = found if pid else None
        if usage is None:
            _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Cost(
        cpu_s=round(usage.ru_utime + usage.ru_stime, 2),
        peak_mb=round(usage.ru_maxrss / 1024, 1),
        code=process.returncode,
        said=log.read_text(errors="replace"),
    )


def resident_mb(pid: int) -> float | None:
    """Memory that a living process holds now; None if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return next(
        (int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), None
    )

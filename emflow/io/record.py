"""The record of one step's run: command, settings, inputs, versions, cost. Never compared, never an input."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import emflow
from emflow.io.atomic import write_text
from emflow.step import EmflowError, Run, StepConfig

_LIBRARIES = ("torch", "numpy", "scipy", "pandas", "pydantic", "snakemake", "mrcfile", "tifffile")


def file_identity(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Name, size and time of an input file."""
    try:
        stat = os.stat(path)
    except OSError:
        return {"path": str(path), "missing": True}
    return {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


class Record:
    """Context that writes a step's record when it ends well.

    Parameters
    ----------
    step
        Room and verb, such as ``ctf.fit``.
    cfg, run
        The step's settings and how it runs; the record goes to ``run.record``, or nowhere.
    inputs
        Files that were read.
    """

    def __init__(
        self, step: str, cfg: StepConfig, run: Run, inputs: Iterable[str | os.PathLike[str]]
    ) -> None:
        self.notes: dict[str, Any] = {}
        self._step, self._cfg, self._run = step, cfg, run
        self._inputs = list(inputs)

    def __enter__(self) -> Record:
        self._started, self._wall = time.time(), time.monotonic()  # a clock may be set meanwhile
        self._cpu = time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None or self._run.record is None:
            return
        usage = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        content = {
            "step": self._step,
            "command": sys.argv,
            "settings": self._cfg.model_dump(mode="json"),
            "step_version": self._cfg.version,
            "emflow": emflow.__version__,
            "commit": _commit(Path(emflow.__file__).parents[1] / ".git"),
            "inputs": [file_identity(path) for path in self._inputs],
            "device": _device(self._run.device),
            "threads": self._run.threads,
            "libraries": {name: _version(name) for name in _LIBRARIES},
            "python": platform.python_version(),
            "machine": platform.machine(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "wall_s": round(time.monotonic() - self._wall, 3),
            "cpu_s": round(usage.ru_utime + usage.ru_stime + children.ru_utime + children.ru_stime, 3),
            "peak_memory_mb": round(peak_memory_bytes() / 2**20, 1),
            **self.notes,
        }
        write_text(self._run.record, json.dumps(content, indent=1) + "\n")


def peak_memory_bytes() -> int:
    """Most memory that this process has held.

    On Linux VmHWM: getrusage's figure begins at that of the process that started this one.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _device(asked: str) -> str:
    """What was asked for, and the GPU that was used, if any."""
    torch = sys.modules.get("torch")  # not imported for its own sake: many steps never need it
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return asked
    return f"{asked} ({torch.cuda.get_device_name()})"


def _commit(git: Path) -> str | None:
    """Commit of the checkout that emflow runs from; None for an installed package."""
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).exists():
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file that a step wrote.

    Raises
    ------
    EmflowError
        If it is missing, or is no JSON: cut short.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise EmflowError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise EmflowError(f"{path}: not valid JSON ({error}). It was cut short or damaged.") from None


def write_metrics(path: str | os.PathLike[str], metrics: dict[str, float | int | None]) -> None:
    """Write a room's ``metrics.json``: flat, ``{"name_unit": number}``, None where there is no figure."""
    write_text(path, json.dumps(metrics, indent=1, allow_nan=False) + "\n")


def verdict(question: str, answer: str, evidence: str, action: str = "") -> dict[str, str]:
    """One row of ``verdicts.json``: pass, warn, fail or unknown, with its evidence and what to do."""
    if answer not in ("pass", "warn", "fail", "unknown"):
        raise ValueError(f"a verdict is pass, warn, fail or unknown, not {answer!r}")
    return {"question": question, "verdict": answer, "evidence": evidence, "action": action}


def write_verdicts(path: str | os.PathLike[str], verdicts: list[dict[str, str]]) -> None:
    """Write a room's ``verdicts.json``."""
    write_text(path, json.dumps(verdicts, indent=1) + "\n")

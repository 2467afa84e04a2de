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
from emflow.io.atomic import watch_writes, write_text
from emflow.io.surroundings import code_state, surroundings
from emflow.step import EmflowError, Run, StepConfig

_LIBRARIES = """torch numpy scipy pandas scikit-learn pydantic snakemake mrcfile tifffile imagecodecs gemmi safetensors
torch-ctf torch-fourier-slice torch-fourier-shell-correlation""".split()  # noqa: SIM905


def lineage_of(step: str) -> str | None:
    """What the settings of a pooling stage and of all steps before it come to, as the workflow tells; else None.

    A digest, and behind a colon one for the optics of each session.
    """
    lineage: str | None = json.loads(os.environ.get("EMFLOW_LINEAGE", "{}")).get(step)
    return lineage


def same_settings(lineage: str, earlier: object) -> bool:
    """Whether a lineage is that of an earlier result, or goes beyond it by further sessions only."""
    return isinstance(earlier, str) and (lineage == earlier or lineage.startswith(f"{earlier},"))


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
        self._watch = watch_writes()

    def __enter__(self) -> Record:
        self._code = code_state(Path(emflow.__file__).parents[1])
        self._written = self._watch.__enter__()
        self._started, self._wall = time.time(), time.monotonic()  # a clock may be set meanwhile
        self._cpu = time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.__exit__(None, None, None)
        if kind is not None or self._run.record is None:
            return
        outputs = [path for path in dict.fromkeys(self._written) if not _is_hidden(path)]
        usage = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        content = {
            "step": self._step,
            "command": sys.argv,
            "settings": self._cfg.model_dump(mode="json"),
            "step_version": self._cfg.version,
            "emflow": emflow.__version__,
            **self._code,
            "folder": os.getcwd(),
            "inputs": [file_identity(path) for path in self._inputs],
            "outputs": [file_identity(path) for path in outputs],
            "device": _device(self._run.device),
            "threads": self._run.threads,
            "libraries": {name: _version(name) for name in _LIBRARIES},
            "python": platform.python_version(),
            "machine": platform.machine(),
            **surroundings(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "wall_s": round(time.monotonic() - self._wall, 3),
            "cpu_s": round(usage.ru_utime + usage.ru_stime + children.ru_utime + children.ru_stime, 3),
            "peak_memory_mb": round(peak_memory_bytes() / 2**20, 1),
            **({"lineage": lineage} if (lineage := lineage_of(self._step)) else {}),
            **self.notes,
        }
        write_text(self._run.record, json.dumps(content, indent=1) + "\n")


def _is_hidden(path: Path) -> bool:
    """Whether a file is a cache or checkpoint, which no other step reads."""
    return path.name.startswith(".") or path.parent.name.startswith(".")


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

"""Look at the machine: what is there, what follows from it, what to do."""

from __future__ import annotations

import fcntl
import importlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

REQUIRED = (
    "cyclopts gemmi imagecodecs jinja2 matplotlib mrcfile numpy pandas psutil pydantic yaml safetensors scipy "
    "snakemake tifffile torch torch_ctf torch_fourier_slice torch_fourier_shell_correlation"
)


@dataclass(frozen=True)
class Finding:
    """One thing looked at: ok, warn or fail; what is there; what follows; what to do."""

    what: str
    state: str
    found: str
    consequence: str = ""
    action: str = ""


def examine() -> Iterator[Finding]:
    """Yield the findings, one after the other; a check that breaks is itself a finding."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _imports,
        _device,
        _cores,
        _scheduler,
        _disk,
        _rights,
    ]
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # a doctor never falls ill
            yield Finding(
                check.__name__.strip("_"), "fail", f"could not be examined: {type(error).__name__}: {error}",
                "It is not known whether steps will work.", "Report this with the text above.",
            )  # fmt: skip


def _python() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} in {sys.prefix}")
    there = shutil.which("emflow", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath]))
    if there is None:
        yield Finding(
            "command", "fail", "no `emflow` beside this Python", "Jobs cannot start their steps.",
            "Install the package into this environment: pip install -e .",
        )  # fmt: skip


def _imports() -> Iterator[Finding]:
    broken = []
    for name in REQUIRED.split():
        try:
            importlib.import_module(name)
        except Exception as error:
            broken.append(f"{name} ({type(error).__name__}: {error})")
    if broken:
        yield Finding(
            "libraries", "fail", "; ".join(broken), "Steps that use them stop.",
            "Run `make` again, or pip install -c envs/constraints.txt -e .",
        )  # fmt: skip
    else:
        yield Finding(
            "libraries", "ok", f"all {len(REQUIRED.split())} load; snakemake {metadata.version('snakemake')}"
        )


def _device() -> Iterator[Finding]:
    import torch

    driver = _ask("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            yield Finding(
                "device",
                "ok",
                f"cuda:{index} {facts.name}, {facts.total_memory / 1e9:.0f} GB, torch {torch.__version__}",
            )
    elif driver:
        yield Finding(
            "device", "warn", f"GPU with its driver ({driver.splitlines()[0]}), but torch {torch.__version__} cannot use it",
            "Steps run on the CPU, ten to a hundred times slower.",
            "Install a torch built for CUDA (pytorch.org says which goes with the driver) into this environment.",
        )  # fmt: skip
    else:
        yield Finding(
            "device", "ok", f"CPU ({torch.get_num_threads()} threads), torch {torch.__version__}; no GPU here",
            "Every step runs; reconstruction of a large session takes long.",
        )  # fmt: skip


def _cores() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    state = "ok" if memory.total > 7e9 else "warn"
    yield Finding(
        "memory", state, f"{os.cpu_count()} cores, {memory.available / 1e9:.0f} of {memory.total / 1e9:.0f} GB free",
        "" if state == "ok" else "Large boxes will not fit.",
        "" if state == "ok" else "Use a machine with 8 GB or more for real sessions.",
    )  # fmt: skip


def _scheduler() -> Iterator[Finding]:
    if shutil.which("sbatch") is None:
        yield Finding(
            "scheduler", "ok", "no SLURM here", "Runs are local: snakemake --profile profiles/local."
        )
        return
    version = metadata.version("snakemake-executor-plugin-slurm")
    answer = _ask("sinfo", "--noheader", "--format=%P %G")
    if not answer:
        yield Finding(
            "scheduler", "warn", "sbatch is there, but sinfo does not answer", "Jobs cannot be submitted.",
            "Ask whether SLURM is up, and whether this machine may submit.",
        )  # fmt: skip
        return
    yield Finding(
        "scheduler", "ok", f"SLURM with plugin {version}; partitions: {', '.join(answer.splitlines())}"
    )
    if not Path("slurm").exists():
        yield Finding(
            "profile", "warn", "no link `slurm` in this folder", "snakemake --profile slurm does not find the profile.",
            "Run where the Snakefile is, or name the folder: --profile profiles/slurm.",
        )  # fmt: skip


def _disk() -> Iterator[Finding]:
    for name, folder in (("results", Path.cwd()), ("scratch", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free / 1e9
        if free < 5:
            yield Finding(
                name, "warn", f"{free:.1f} GB free in {folder}", "Extracted particles of a real session do not fit.",
                "Free some space, or set TMPDIR." if name == "scratch" else "Work in a folder with more space.",
            )  # fmt: skip
        else:
            yield Finding(name, "ok", f"{free:.0f} GB free in {folder}")


def _rights() -> Iterator[Finding]:
    try:
        with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix=".doctor-") as handle:
            os.fsync(handle.fileno())
            try:
                fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                yield Finding(
                    "locks", "warn", f"this file system has no locks ({error.strerror})",
                    "Two runs on one project are told apart by Snakemake's own lock only.",
                    "Never start two; or ask for the file system to be mounted with flock.",
                )  # fmt: skip
    except OSError as error:
        yield Finding(
            "permissions", "fail", f"cannot write in {Path.cwd()}: {error.strerror}", "No result can be kept.",
            "Work in a folder of your own.",
        )  # fmt: skip
        return
    yield Finding("permissions", "ok", f"can write in {Path.cwd()}")


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

"""Look at the machine: what is there, what follows from it, what to do."""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from emflow.io.surroundings import container
from emflow.project import doctor_disk, doctor_gpu, doctor_software
from emflow.project.finding import Finding, ask

REQUIRED = (
    "cyclopts gemmi imagecodecs jinja2 matplotlib mrcfile numpy pandas psutil pydantic yaml safetensors scipy sklearn "
    "snakemake tifffile torch torch_ctf torch_fourier_slice torch_fourier_shell_correlation"
)

_SITES = (Path("site.yaml"), Path.home() / ".config" / "emflow" / "site.yaml")


def examine() -> Iterator[Finding]:
    """Yield the findings, one after the other; a check that breaks is itself a finding."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _imports,
        doctor_software.pins,
        doctor_software.weights,
        doctor_gpu.devices,
        _cores,
        _scheduler,
        _container,
        doctor_disk.space,
        doctor_disk.rights,
        doctor_disk.open_files,
    ]
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # a doctor never falls ill
            yield Finding(
                check.__name__.strip("_"), "fail", f"could not be examined: {type(error).__name__}: {error}",
                "It is not known whether steps will work.", "Report this with the text above.",
            )  # fmt: skip


def in_words(finding: Finding) -> str:
    """Return a finding as it is printed."""
    lines = [f"{finding.state:>4}  {finding.what}: {finding.found}"]
    labels = (("so", finding.consequence), ("do", finding.action))
    return "\n".join([*lines, *(f"      {label}: {text}" for label, text in labels if text)])


def as_json(findings: list[Finding]) -> str:
    """Return findings for other programs."""
    return json.dumps([asdict(finding) for finding in findings], indent=1)


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


def _container() -> Iterator[Finding]:
    image = container()
    if image:
        yield Finding("container", "ok", "inside one" if image == "yes" else image)


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
            "scheduler", "warn", "no SLURM here (sbatch is not on PATH)", "Jobs run on this machine only.",
            "Run with snakemake --profile profiles/local; for a cluster, start on one of its login nodes.",
        )  # fmt: skip
        return
    version = metadata.version("snakemake-executor-plugin-slurm")
    answer = ask("sinfo", "--noheader", "--format=%P %G")
    if not answer:
        yield Finding(
            "scheduler", "warn", "sbatch is there, but sinfo does not answer", "Jobs cannot be submitted.",
            "Ask whether SLURM is up, and whether this machine may submit.",
        )  # fmt: skip
        return
    yield Finding(
        "scheduler", "ok", f"SLURM with plugin {version}; partitions: {', '.join(answer.splitlines())}"
    )
    site = [path for path in _SITES if path.is_file()]
    if site:
        yield Finding("site file", "ok", str(site[0]))
    elif ":" not in answer and "gpu" not in answer.lower():
        yield Finding(
            "site file", "warn", "no partition shows a GPU, and there is no site.yaml",
            "GPU jobs wait for ever, or are refused.", "Ask which partition has GPUs, and name it in the profile.",
        )  # fmt: skip
    if not Path("slurm").exists():
        yield Finding(
            "profile", "warn", "no link `slurm` in this folder", "snakemake --profile slurm does not find the profile.",
            "Run where the Snakefile is, or name the folder: --profile profiles/slurm.",
        )  # fmt: skip

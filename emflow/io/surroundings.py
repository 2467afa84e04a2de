"""What a step ran on: the code's state, the processor, the GPU and its driver, the container, the job."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_CODE = ("emflow", "workflow", "Snakefile")
_DRIVER = Path("/proc/driver/nvidia/version")


def code_state(root: Path) -> dict[str, Any]:
    """Return the commit of the checkout in ``root`` and whether its code was edited since.

    Both are None for an installed package; where there is no git, only the commit is known.
    """
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "--", *_CODE]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # many steps may ask at once
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True, env=environment, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return {"commit": _commit(root / ".git"), "dirty": None}
    lines = done.stdout.splitlines()
    oid = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), None)
    return {"commit": oid, "dirty": any(not line.startswith("#") for line in lines)}


def _commit(git: Path) -> str | None:
    """Commit of a checkout as its files tell it."""
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


def surroundings() -> dict[str, Any]:
    """Return host, processor, GPU, driver, CUDA of torch, container and batch job; None where there is none."""
    torch = sys.modules.get("torch")  # not imported for its own sake: many steps never need it
    used = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": processor(),
        "gpu": torch.cuda.get_device_name() if torch is not None and used else None,
        "driver": driver(),
        "cuda": torch.version.cuda if torch is not None else None,
        "container": container(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def processor() -> str:
    """Name of the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def driver() -> str | None:
    """Version of the NVIDIA driver; None without one."""
    try:
        found = re.search(
            r"\b(\d{3}\.\d+(?:\.\d+)?)\b", _DRIVER.read_text(encoding="utf-8", errors="replace")
        )
    except OSError:
        return None
    return found[1] if found else None


def container() -> str | None:
    """Image of the container around this process; ``yes`` where the image is not told, None outside."""
    for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"):
        if os.environ.get(name):
            return os.environ[name]
    return "yes" if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists() else None

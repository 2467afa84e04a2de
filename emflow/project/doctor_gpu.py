"""GPUs as the driver and as torch see them, and what is wrong where the two do not agree."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from emflow.io.surroundings import container, driver
from emflow.project.finding import Finding, ask, ask_code

_SLOW = "Steps run on the CPU, ten to a hundred times slower."
_BUSY = 0.5


def devices() -> Iterator[Finding]:
    """Say which devices steps can use, and why not where a GPU is there and torch cannot use it."""
    import torch

    code, said = ask_code("nvidia-smi", "--query-gpu=name,memory.total,memory.free,driver_version",
                          "--format=csv,noheader,nounits")  # fmt: skip
    listed = [line for line in said.splitlines() if line.count(",") >= 3] if code == 0 else []
    if torch.cuda.is_available():
        yield from _usable(torch, listed)
    elif listed:
        yield _unused(torch, listed)
    elif code or driver():
        yield Finding(
            "device", "warn", f"an NVIDIA driver ({driver() or 'version unknown'}) that does not answer: "
            f"{said.splitlines()[0] if said else 'nvidia-smi is not there'}", _SLOW,
            "Start the container with --nv, if this is one." if container() else
            "Ask for the driver to be loaded again (after an update: restart the machine), then `nvidia-smi`.",
        )  # fmt: skip
    else:
        yield Finding(
            "device", "warn", f"no GPU here: CPU, {torch.get_num_threads()} threads, torch {torch.__version__}",
            "Every step runs; reconstruction, heterogeneity and training take ten to a hundred times longer.",
            "Nothing for a test. For a real session run where a GPU is, or on a cluster: --profile slurm.",
        )  # fmt: skip


def _usable(torch: Any, listed: list[str]) -> Iterator[Finding]:
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        found = (
            f"cuda:{index} {facts.name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free, torch {torch.__version__}, "
            f"CUDA {torch.version.cuda}, driver {driver() or (listed[0].rsplit(',', 1)[-1].strip() if listed else '?')}"
        )
        architecture = f"sm_{facts.major}{facts.minor}"
        known = torch.cuda.get_arch_list()
        if known and not any(name.startswith(f"sm_{facts.major}") for name in known):
            yield Finding(
                "device", "fail", f"{found}; this torch knows {', '.join(known)}, not {architecture}",
                "Steps stop at their first kernel.",
                "Install a torch whose build knows this GPU (pytorch.org), or set execution.device: cpu.",
            )  # fmt: skip
        elif free < _BUSY * total:
            users = ask("nvidia-smi", "--query-compute-apps=pid,name,used_memory", "--format=csv,noheader")
            yield Finding(
                "device", "warn", found, "Other work holds its memory: batches are smaller, or do not fit.",
                f"Wait, or use another GPU. Processes: {users or 'nvidia-smi names them'}.",
            )  # fmt: skip
        else:
            yield Finding("device", "ok", found)


def _unused(torch: Any, listed: list[str]) -> Finding:
    """Say why torch cannot use a GPU that the driver lists."""
    name, version = listed[0].split(",")[0], listed[0].rsplit(",", 1)[-1].strip()
    most = re.search(r"CUDA Version:\s*(\d+\.\d+)", ask("nvidia-smi"))
    upto = most[1] if most else None
    there = f"{name}, driver {version}" + (f" (up to CUDA {upto})" if upto else "")
    built = torch.version.cuda
    if built is None:
        why, action = (
            f"torch {torch.__version__} is a CPU build",
            "Install the CUDA build of this version"
            + (f", for CUDA {upto} or older" if upto else "")
            + ": pip install torch==VERSION --index-url https://download.pytorch.org/whl/cuXYZ (pytorch.org lists them).",
        )
    elif upto and tuple(map(int, built.split("."))) > tuple(map(int, upto.split("."))):
        why, action = (
            f"torch {torch.__version__} needs CUDA {built}, the driver is too old for it",
            f"Update the driver, or install a torch built for CUDA {upto} or older.",
        )
    elif os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        why, action = (
            f"CUDA_VISIBLE_DEVICES is '{os.environ['CUDA_VISIBLE_DEVICES']}' and hides it",
            "Unset CUDA_VISIBLE_DEVICES, or ask the scheduler for a GPU (gpu=1).",
        )
    else:
        why, action = (
            f"torch {torch.__version__} (CUDA {built}) does not reach it",
            "Look at the rights of /dev/nvidia*; in a container start it with --nv.",
        )
    return Finding("device", "warn", f"{there}, but {why}", _SLOW, action)

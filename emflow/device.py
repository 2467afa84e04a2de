"""Choose the device, the threads and the seed; estimate memory."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from emflow.step import EmflowError, Execution


def choose_device(name: str = "auto") -> torch.device:
    """Return the torch device that ``name`` asks for.

    Parameters
    ----------
    name
        ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises
    ------
    EmflowError
        If a GPU is asked for by name and there is none: never a silent fallback.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        count = torch.cuda.device_count()
        names = [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]
        return torch.device("cuda", take_slot(names) if count > 1 else 0)
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise EmflowError(
            f"execution.device is '{name}', but torch {torch.__version__} sees no CUDA device here. "
            "Set execution.device to auto or cpu, or run `emflow doctor`."
        )
    return torch.device(name)


_slots: list[int] = []


def take_slot(names: Sequence[str], folder: Path | None = None) -> int:
    """Return the index of a device that no other process of emflow here uses, and hold it until this one ends.

    Where all are held, they are shared.
    """
    folder = folder or Path(tempfile.gettempdir())
    for index, name in enumerate(names):
        handle = os.open(
            folder / f"emflow-gpu-{os.getuid()}-{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        )
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            continue
        _slots.append(handle)  # an open file keeps the lock
        return index
    return os.getpid() % len(names)


def prepare(execution: Execution) -> torch.device:
    """Set threads, flush denormals (they slow CPU kernels tenfold) and return the device."""
    if execution.threads:
        torch.set_num_threads(execution.threads)
    elif "SLURM_CPUS_PER_TASK" in os.environ:
        torch.set_num_threads(int(os.environ["SLURM_CPUS_PER_TASK"]))
    torch.set_flush_denormal(True)
    return choose_device(execution.device)


def generator(seed: int, *stream: int) -> torch.Generator:
    """Return a CPU random generator for a seed and a stream of numbers (shard, particle, iteration).

    Draw on the CPU and move: then a GPU run sees the same numbers as a CPU run.
    """
    mixed = seed & 0xFFFFFFFF
    for number in stream:
        mixed = (mixed * 6364136223846793005 + number + 1442695040888963407) & 0x7FFFFFFFFFFFFFFF
    return torch.Generator().manual_seed(mixed)


def free_memory_bytes(device: torch.device, execution: Execution | None = None) -> int:
    """Memory that a step may plan with on ``device``, in bytes."""
    if execution is not None and execution.memory_gb:
        return int(execution.memory_gb * 1e9)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * 0.8)
    import psutil

    return int(min(psutil.virtual_memory().available, *_granted_bytes()) * 0.5)


def _granted_bytes(root: Path = Path("/sys/fs/cgroup")) -> list[float]:
    """Memory that a batch system or a container grants this process, less what is used; infinite where unlimited."""
    granted = [float("inf")]
    if os.environ.get("SLURM_MEM_PER_NODE", "").isdigit():
        granted.append(int(os.environ["SLURM_MEM_PER_NODE"]) * 2.0**20)
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next(line[3:].strip("/") for line in lines if line.startswith("0::"))
    except (OSError, StopIteration):
        return granted
    for folder in (root / own, *(root / own).parents):
        try:
            most = (folder / "memory.max").read_text().strip()
            if most != "max":
                granted.append(float(int(most) - int((folder / "memory.current").read_text())))
        except (OSError, ValueError):
            continue
    return granted

"""Choose the device, the threads and the seed; estimate memory."""

from __future__ import annotations

import os

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
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise EmflowError(
            f"execution.device is '{name}', but torch {torch.__version__} sees no CUDA device here. "
            "Set execution.device to auto or cpu, or run `emflow doctor`."
        )
    return torch.device(name)


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

    return int(psutil.virtual_memory().available * 0.5)

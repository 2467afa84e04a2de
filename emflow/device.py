"""Choose the device, the threads and the seed; estimate memory."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import torch

from emflow import slots
from emflow.step import EmflowError, Execution

log = logging.getLogger("emflow")

RANK = "EMFLOW_RANK"
"""Set for the processes of one step: number of this one, how many there are, their folder."""
_PLANNED = 0.8
"""Part of a GPU's free memory that is planned with."""
_held: list[slots.Grant] = []


def prepare(execution: Execution, gpu: bool = True) -> torch.device:
    """Set threads and precision, flush denormals (they slow CPU kernels tenfold) and return the device.

    Parameters
    ----------
    execution
        How to run.
    gpu
        Whether the step takes a GPU unasked (``auto``): those whose rule asks the scheduler for one.
    """
    if execution.threads:
        torch.set_num_threads(execution.threads)
    elif "SLURM_CPUS_PER_TASK" in os.environ:
        torch.set_num_threads(int(os.environ["SLURM_CPUS_PER_TASK"]))
    torch.set_flush_denormal(True)
    # no TF32, which torch allows in convolutions unasked: its 10 bits have not been shown to be harmless here
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    name = execution.device
    return choose_device("cpu" if name == "auto" and not gpu else name, execution.jobs_per_gpu)


def choose_device(name: str = "auto", sharers: int = 1) -> torch.device:
    """Return the torch device that ``name`` asks for; a GPU only once no other job of this machine uses it.

    Parameters
    ----------
    name
        ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:N`` (the Nth that CUDA_VISIBLE_DEVICES leaves) or
        ``mps``.
    sharers
        Jobs that may use one GPU at a time.

    Raises
    ------
    EmflowError
        If a GPU is asked for by name and there is none: never a silent fallback.
    """
    if name in ("cpu", "mps"):
        return torch.device(name)
    # of several processes of one step, the one that started them holds the devices
    number = rank()[0] if RANK in os.environ else reserve(name, 1, sharers)
    if torch.cuda.is_available():
        device = torch.device("cuda", number or 0)
        torch.cuda.set_device(device)
        return device
    if name != "auto":
        raise EmflowError(
            f"execution.device is '{name}', but torch {torch.__version__} sees no CUDA device here. "
            "Set execution.device to auto or cpu, or run `emflow doctor`."
        )
    return torch.device("cpu")


def rank() -> tuple[int, int]:
    """Number of this process among those of one step, from 0, and how many they are."""
    number, count, _ = os.environ.get(RANK, "0 1 -").split(" ", 2)
    return int(number), int(count)


def reserve(name: str, wanted: int, sharers: int = 1) -> int | None:
    """Hold GPUs until this process ends, and show CUDA no others; call it before CUDA starts.

    Returns
    -------
    Number of the first as CUDA counts from now on; None without any GPU.
    """
    if torch.version.cuda is None and torch.version.hip is None:
        return None
    if _held or torch.cuda.is_initialized():  # a second step in one process
        return torch.cuda.current_device() if torch.cuda.is_available() else None
    gpus = slots.visible()
    if (
        not gpus and torch.cuda.is_available()
    ):  # no nvidia-smi, as in some containers, or AMD: torch must count
        _held.append(slots.take(_counted(name), wanted, sharers))
        return int(_held[-1].gpus[0].index)
    if not gpus:
        return None
    _held.append(slots.take(_granted(_named(name, gpus)), wanted, sharers))
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.token for gpu in _held[-1].gpus)
    return 0


def _granted(gpus: list[slots.Gpu]) -> list[slots.Gpu]:
    """GPUs that SLURM granted are locked among the steps of its job only: what else runs there, SLURM has allowed."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or "CUDA_VISIBLE_DEVICES" not in os.environ:
        return gpus
    return [replace(gpu, name=f"{gpu.name}-slurm-{job}") for gpu in gpus]


def _counted(name: str) -> list[slots.Gpu]:
    """GPUs by number only."""
    numbers = [str(number) for number in range(torch.cuda.device_count())]
    tokens = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(numbers)).split(",")
    gpus = [slots.Gpu(token, token, number) for number, token in zip(numbers, tokens, strict=False)]
    return _named(name, gpus)


def held_tokens() -> str | None:
    """What CUDA_VISIBLE_DEVICES is to say to processes that share this one's devices; None to leave it."""
    return ",".join(gpu.token for gpu in _held[-1].gpus) if _held else None


def _named(name: str, gpus: list[slots.Gpu]) -> list[slots.Gpu]:
    """Those that a device's name leaves."""
    _, _, number = name.partition(":")
    if number and int(number) >= len(gpus):
        raise EmflowError(
            f"execution.device is '{name}', but there are {len(gpus)} GPUs for this job (cuda:0 is the first). Set "
            "execution.device to auto, or look at CUDA_VISIBLE_DEVICES and nvidia-smi."
        )
    return [gpus[int(number)]] if number else gpus


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
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = (
            torch.cuda.mem_get_info(device)[0] + kept
        )  # what torch keeps for itself is free to this process
        return int(free * _PLANNED / (execution.jobs_per_gpu if execution is not None else 1))
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

"""Work in batches that are halved where memory runs out."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from emflow.step import OutOfMemory

log = logging.getLogger("emflow")

Result = TypeVar("Result")

_SIGNS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
)
"""What torch's errors say that are no ``torch.OutOfMemoryError`` and mean it."""
_largest: dict[str, int] = {}
"""Kind of work → the largest batch that is tried in this process, once a larger one did not fit."""


def in_batches(work: Callable[[slice], Result], count: int, size: int, what: str) -> list[Result]:
    """Call ``work`` on one slice of 0 … ``count`` after another; where memory runs out, on half as many at a time.

    Parameters
    ----------
    work
        Takes a slice. It is called again on a part of the slice if it runs out of memory, so it must have changed
        nothing by then: what it adds to sums comes last, random numbers are drawn beforehand. It may call this function
        in turn; what does not fit there is not tried again here.
    count
        How many items there are.
    size
        Items of a slice, at most.
    what
        The items, for the log: "images in the global search". Smaller batches are kept for all work of that name.

    Raises
    ------
    OutOfMemory
        If not even one item fits.
    """
    results: list[Result] = []
    start = 0
    while start < count:
        length = min(max(1, size), _largest.get(what, size), count - start)
        try:
            results.append(work(slice(start, start + length)))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else "MemoryError"
        else:
            start += length
            continue
        # only now, with the error, are the frames gone that held the batch's tensors
        release_memory()
        if length == 1:
            raise does_not_fit(f"one of the {what}", reason)
        _largest[what] = length // 2
        log.warning("Out of memory with %d %s: going on with %d at a time.", length, what, length // 2)
    return results


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in main memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def release_memory() -> None:
    """Give back what torch keeps for later."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def does_not_fit(what: str, reason: str) -> OutOfMemory:
    """Return the error that says what to do."""
    return OutOfMemory(
        f"Out of memory: not even {what} fits ({reason}). Give the job more memory or a larger GPU, or set "
        "execution.device to cpu; smaller boxes or a coarser pixel need less. On a shared GPU, `nvidia-smi` says "
        "who else uses it."
    )

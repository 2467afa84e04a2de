"""What all tests share: one thread, and the folder with real data where there is one."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch.utils._python_dispatch import TorchDispatchMode

from emflow.em import batches
from emflow.nn import tiles

torch.set_num_threads(1)
settings.register_profile("seeded", derandomize=True)
settings.load_profile("seeded")  # the same examples each time; --hypothesis-profile=default draws new ones
REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def whole_numbers() -> Iterator[None]:
    """Let no test leave the processor flushing denormals, as a step's process does: others read such numbers."""
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with small real data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("EMFLOW_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "README.md").exists():
        pytest.skip(f"real test data not found in {folder}; set EMFLOW_TEST_DATA to its folder")
    return folder


class ScarceMemory(TorchDispatchMode):
    """Memory in which batches of more than ``most`` items run out, each at some operation that makes a tensor."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.failures = most, 0
        self._random = random.Random(most)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        takes_memory = not func._schema.is_mutable and not func.is_view
        if takes_memory and self._length() > self.most and self._random.random() < 0.1:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return func(*args, **(kwargs or {}))

    def _length(self) -> int:
        """Items of the innermost batch that is being worked on."""
        frame = sys._getframe()
        while frame is not None:
            if frame.f_code is batches.in_batches.__code__:
                return int(frame.f_locals.get("length", 0))
            frame = frame.f_back  # type: ignore[assignment]
        return 0


@pytest.fixture
def scarce_memory() -> Iterator[Callable[[int], ScarceMemory]]:
    """A context in which batches of more than so many items run out of memory, half-way through their work."""
    batches._largest.clear()
    tiles._largest.clear()
    yield ScarceMemory
    batches._largest.clear()
    tiles._largest.clear()

"""What all tests share: one thread, and the folder with real data where there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
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

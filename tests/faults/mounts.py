"""Folders that are mounted read-only over themselves; needs root."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def read_only(folders: list[Path]) -> Iterator[None]:
    """Mount folders over themselves, read-only; needs root."""
    mounted = []
    try:
        for folder in folders:
            subprocess.run(["mount", "--bind", folder, folder], check=True)
            mounted.append(folder)
            subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        for folder in reversed(mounted):
            subprocess.run(["umount", folder], check=True)


def can_mount() -> bool:
    """Whether folders can be mounted here."""
    with tempfile.TemporaryDirectory() as folder, suppress(OSError):
        if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode == 0:
            return subprocess.run(["umount", folder], check=False).returncode == 0
    return False

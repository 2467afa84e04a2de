"""How many GPUs a run may use here, counted without loading torch."""

from __future__ import annotations

import os
import subprocess


def count_gpus() -> int:
    """Return the number of NVIDIA GPUs, or of MIG instances, that this process may use; 0 where there is no driver.

    ``CUDA_VISIBLE_DEVICES`` is respected as CUDA does: the list ends at the first entry that names no device.
    """
    names = _names()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return len(names)
    count = 0
    for entry in visible.split(","):
        word = entry.strip()
        if word.isdigit():
            known = int(word) < len(names)
        else:
            known = bool(word) and any(name.startswith(word) for name in names)
        if not known:
            break
        count += 1
    return count


def _names() -> list[str]:
    """UUID of each GPU as the driver lists it, or of its MIG instances where it is cut into such."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if listed.returncode != 0:
        return []
    names = [
        line.rsplit("UUID: ", 1)[-1].rstrip(")") for line in listed.stdout.splitlines() if "UUID: " in line
    ]
    return [name for name in names if name.startswith("MIG-")] or names

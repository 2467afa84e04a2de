"""What the doctor finds, and how it asks other programs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing looked at: ok, warn or fail; what is there; what follows; what to do."""

    what: str
    state: str
    found: str
    consequence: str = ""
    action: str = ""


def ask(*command: str) -> str:
    """Return what a program says; empty where it is not there, fails or hangs."""
    code, said = ask_code(*command)
    return said if code == 0 else ""


def ask_code(*command: str) -> tuple[int | None, str]:
    """Return exit code and words of a program; None where it is not there or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, ""
    return done.returncode, (done.stdout.strip() or done.stderr.strip())

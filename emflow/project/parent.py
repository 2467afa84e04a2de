"""A step dies with the run that started it, so that a killed run leaves no writer behind."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
import time

import psutil

_PR_SET_PDEATHSIG = 1


def die_with(pid: int) -> None:
    """End this process as soon as process ``pid`` (Snakemake's) or the direct parent (its shell) is gone.

    Snakemake starts a step through a shell. If the shell is gone, the kernel tells the step (PR_SET_PDEATHSIG):
    by SIGTERM, so that it leaves in order where a batch system asked both to stop and the shell was quicker.
    If Snakemake is killed, the shell lives on, so a thread waits for Snakemake itself, and kills.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (OSError, AttributeError):  # not Linux: the thread remains
        pass
    handle = None
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGKILL)
    except (OSError, AttributeError):  # an old kernel, or not Linux: ask every second
        pass
    threading.Thread(target=_wait, args=(pid, handle), name="die-with-parent", daemon=True).start()


def _wait(pid: int, handle: int | None) -> None:
    if handle is not None:
        select.select([handle], [], [])
    else:
        while psutil.pid_exists(pid):
            time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)

"""Leave in time when the system asks for it: SIGTERM, as a batch system sends before it kills.

What is finished is on the disk at any moment (journals, checkpoints, whole files), so that leaving means to
remove half-written files and to end. The main thread does that by an exception; where it is busy in a long
kernel, which no exception reaches, a thread ends the process after a while.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

EXIT_CODE = 128 + signal.SIGTERM
GRACE_S = 20.0
"""How long the main thread may take; batch systems kill after 30 s (SLURM's KillWait)."""
MESSAGE = (
    "emflow: told to stop (SIGTERM: preempted, cancelled or out of time). What is finished is kept; the same "
    "command goes on from there."
)

half_written: set[Path] = set()
"""Temporary files that are removed where the process ends without unwinding."""


class LeaveError(BaseException):
    """Raised in the main thread on SIGTERM; no fault of the code that it passes through."""


class _State:
    asked = False
    held_off = 0


def asked() -> bool:
    """Whether the process was told to stop."""
    return _State.asked


@contextlib.contextmanager
def held_off() -> Iterator[None]:
    """Let nothing be interrupted inside; the code asks :func:`asked`, saves what it has, and ends the block.

    Raises
    ------
    LeaveError
        At the end of the block, if the process was told to stop.
    """
    _State.held_off += 1
    try:
        yield
    finally:
        _State.held_off -= 1
    if _State.asked and not _State.held_off:
        raise LeaveError


@contextlib.contextmanager
def on_sigterm() -> Iterator[None]:
    """Inside, SIGTERM ends the process with :data:`EXIT_CODE` and a line that says so, within :data:`GRACE_S`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    before = signal.signal(signal.SIGTERM, _handle)
    woken_before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    _State.asked = False
    threading.Thread(target=_end_in_time, args=(told,), name="leave-in-time", daemon=True).start()
    try:
        yield
    except LeaveError:
        _remove_half_written()  # what the exception met between its making and its being looked after
        print(MESSAGE, file=sys.stderr, flush=True)
        raise SystemExit(EXIT_CODE) from None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if _State.asked else before)
        signal.set_wakeup_fd(woken_before)
        os.close(tell)


def _handle(number: int, frame: object) -> None:
    first, _State.asked = not _State.asked, True
    if first and not _State.held_off:
        raise LeaveError


def _end_in_time(told: int) -> None:
    """Wait for the signal, which the kernel's handler reports at once whatever the main thread does."""
    while number := os.read(told, 1):
        if number[0] == signal.SIGTERM:
            time.sleep(GRACE_S)
            print(MESSAGE, file=sys.stderr, flush=True)
            _remove_half_written()
            os._exit(EXIT_CODE)
    os.close(told)


def _remove_half_written() -> None:
    for path in list(half_written):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)

"""One run of a project at a time: a lock that the kernel frees when its holder dies.

On a file system that machines share, the kernel's lock may hold on one machine only, or not at all. So the lock
file also says which process on which machine runs the project; that one renews the file's time while it lives,
and signs off at its end.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import logging
import os
import platform
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from emflow.step import EmflowError

log = logging.getLogger("emflow")
_held: dict[Path, int] = {}
_claimed: set[int] = set()

BEAT_S = 30.0
"""How often a run renews the time of its lock file."""
DEAD_S = 300.0
"""How old the lock file of a run on another machine is before that run counts as dead."""


def hold(folder: Path) -> None:
    """Hold the project in ``folder`` until this process ends, however it ends.

    Raises
    ------
    EmflowError
        If another run holds it, saying which; or if a killed run left Snakemake's lock.
    """
    if (folder / ".lock").resolve() in _held:
        return
    handle = claim(folder)
    if handle is None:
        raise EmflowError(
            f"{folder}: {holder(folder) or 'another snakemake'} is running this project. "
            "Two runs never work on one project: wait for it, or stop it (Ctrl-C) and start again."
        )
    left = snakemake_locks(folder.name)
    if left:
        release(handle)
        raise EmflowError(
            f"{folder}: a run was killed and left Snakemake's lock. Run `emflow unlock {folder.name}`, then the "
            "same command again; what was finished is kept."
        )
    _held[(folder / ".lock").resolve()] = handle


def claim(folder: Path) -> int | None:
    """Lock ``folder`` and write down who holds it; None if another process does.

    :func:`release`, or the end of the process, frees it. Until then the file's time is renewed.
    """
    path = folder / ".lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
    try:
        for attempt in (1, 2, 3):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # somebody who only asks (is_held) is gone in an instant
                if attempt == 3:
                    os.close(handle)
                    return None
                time.sleep(0.05)
    except (
        OSError
    ) as error:  # a file system without flock: what the file says remains, and Snakemake's own lock
        log.warning("%s: cannot be locked (%s); relying on what it says of its holder", path, error)
    if _recorded_alive(folder):
        os.close(handle)
        return None
    content = {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "started": _started(os.getpid()),
    }
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(content).encode(), 0)
    _claimed.add(handle)
    atexit.register(_sign_off, handle, os.getpid())
    threading.Thread(target=_beat, args=(handle,), name="project-lock", daemon=True).start()
    return handle


def release(handle: int) -> None:
    """Free what :func:`claim` locked."""
    _sign_off(handle, os.getpid())
    os.close(handle)


def is_held(folder: Path) -> bool:
    """Whether a living run holds the project, on this machine or another."""
    try:
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    finally:
        os.close(handle)
    return _recorded_alive(folder)


def holder(folder: Path, what: str = "snakemake") -> str:
    """Return who holds the project, in words; empty when nobody wrote it down."""
    content = _content(folder)
    if not content:
        return ""
    sign = ""
    if content["host"] != platform.node():
        sign = f", last sign of life {max(0.0, _age_s(folder)):.0f} s ago"
    return f"{what} (process {content['pid']} on {content['host']}, since {content['since']}{sign})"


def snakemake_locks(project: str, where: Path = Path(".snakemake/locks")) -> list[Path]:
    """Snakemake's lock files in the working folder that name this project's files."""
    prefix = f"results/{project}/"
    found = []
    for path in sorted(where.glob("*.lock")):
        with contextlib.suppress(OSError):
            if any(line.startswith(prefix) for line in path.read_text(encoding="utf-8").splitlines()):
                found.append(path)
    return found


def _content(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads((folder / ".lock").read_text(encoding="utf-8"))
        if isinstance(content, dict) and {"pid", "host", "since"} <= content.keys():
            return content
    return {}


def _recorded_alive(folder: Path) -> bool:
    """Whether the run that the lock file names lives: here by its process, elsewhere by the file's time."""
    content = _content(folder)
    if not content:
        return False
    if content["host"] == platform.node():
        if content["pid"] == os.getpid():
            return False
        # a process of that number that started at another time is another one
        return psutil.pid_exists(content["pid"]) and _started(content["pid"]) == content.get("started", "")
    return _age_s(folder) < DEAD_S


def _started(pid: int) -> str:
    """When a process started, in ticks since the machine did: no clock that somebody sets. Empty if not known."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    return ""


def _age_s(folder: Path) -> float:
    """Age of the lock file by the file system's own clock, which may differ from this machine's."""
    probe = folder / f".lock-{os.getpid()}"
    try:
        probe.touch()
        return probe.stat().st_mtime - (folder / ".lock").stat().st_mtime
    except OSError:
        return 0.0  # not known: taken as alive
    finally:
        probe.unlink(missing_ok=True)


def _beat(handle: int) -> None:
    while handle in _claimed:
        with contextlib.suppress(OSError):  # the file system may be away for a while
            os.utime(handle)
        time.sleep(BEAT_S)


def _sign_off(handle: int, pid: int) -> None:
    if os.getpid() == pid and handle in _claimed:
        _claimed.discard(handle)
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)

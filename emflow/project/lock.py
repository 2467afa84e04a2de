"""One run of a project at a time: a lock that the kernel frees when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import platform
import time
from pathlib import Path

from emflow.step import EmflowError

log = logging.getLogger("emflow")
_held: dict[Path, int] = {}


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
        os.close(handle)
        raise EmflowError(
            f"{folder}: a run was killed and left Snakemake's lock. Run `emflow unlock {folder.name}`, then the "
            "same command again; what was finished is kept."
        )
    _held[(folder / ".lock").resolve()] = handle


def claim(folder: Path) -> int | None:
    """Lock ``folder`` and write down who holds it; None if another process does.

    Closing the handle that is returned, or the end of the process, frees it.
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
    except OSError as error:  # a file system without flock: Snakemake's own lock remains
        log.warning("%s: cannot be locked (%s); relying on Snakemake's own lock", path, error)
    content = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(handle, 0)
    os.write(handle, json.dumps(content).encode())
    return handle


def is_held(folder: Path) -> bool:
    """Whether a living run holds the project."""
    try:
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def holder(folder: Path, what: str = "snakemake") -> str:
    """Return who holds the project, in words; empty when nobody wrote it down."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        content = json.loads((folder / ".lock").read_text(encoding="utf-8"))
        return f"{what} (process {content['pid']} on {content['host']}, since {content['since']})"
    return ""


def snakemake_locks(project: str, where: Path = Path(".snakemake/locks")) -> list[Path]:
    """Snakemake's lock files in the working folder that name this project's files."""
    prefix = f"results/{project}/"
    found = []
    for path in sorted(where.glob("*.lock")):
        with contextlib.suppress(OSError):
            if any(line.startswith(prefix) for line in path.read_text(encoding="utf-8").splitlines()):
                found.append(path)
    return found

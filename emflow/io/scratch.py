"""Disposable files of a step on the node's own disk: removed at the end, and by the next step after a kill.

Each step has a folder of its own there, and holds a lock on a file beside it that the kernel frees when the process
dies, however it dies. A folder whose lock is free was left by a killed step.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("emflow")


@contextlib.contextmanager
def scratch_file(beside: Path, scratch: str | None, needed_bytes: float = 0.0) -> Iterator[Path]:
    """Yield where a disposable file may lie: on the scratch disk where there is one, else as ``beside`` says.

    Parameters
    ----------
    beside
        Its place among the results; it survives a kill there, and is left to the caller to remove.
    scratch
        ``execution.scratch``: a folder, with environment variables such as ``$TMPDIR``.
    needed_bytes
        Its size. Where there is less room on the scratch disk, the file goes beside the results.
    """
    base = _base(scratch, needed_bytes) if scratch else None
    if base is None:
        yield beside
        return
    _remove_left(base)
    name = f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    handle = os.open(base / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    folder = base / name
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        folder.mkdir(mode=0o700)
        yield folder / beside.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        (base / f"{name}.lock").unlink(missing_ok=True)
        os.close(handle)


def _base(scratch: str, needed_bytes: float) -> Path | None:
    """This user's folder on the scratch disk; None where it cannot serve, which is said."""
    text = os.path.expanduser(os.path.expandvars(scratch))
    if "$" in text:
        log.warning("execution.scratch: %s is not set here; copies go beside the results.", scratch)
        return None
    base = Path(text) / f"emflow-{os.getuid()}"
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        mine = base.stat().st_uid == os.getuid() and not base.is_symlink()
        free = shutil.disk_usage(base).free
    except OSError as error:
        log.warning("execution.scratch: %s: %s; copies go beside the results.", base, error.strerror)
        return None
    if not mine or not os.access(base, os.W_OK):
        log.warning("execution.scratch: %s is not yours; copies go beside the results.", base)
        return None
    if free < 1.05 * needed_bytes:
        log.warning(
            "execution.scratch: %s has %.3g GB free, and %.3g GB are needed; copies go beside the results.",
            base, free / 1e9, needed_bytes / 1e9,
        )  # fmt: skip
        return None
    return base


def _remove_left(base: Path) -> None:
    """Remove what killed steps of this node left: their locks are free."""
    for lock in base.glob(f"{platform.node()}-*.lock"):
        with contextlib.suppress(OSError):
            handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                folder = lock.with_suffix("")
                if folder.is_dir() or _is_old(lock):
                    log.info("Removing %s, which a killed step left", folder)
                    shutil.rmtree(folder, ignore_errors=True)
                    lock.unlink(missing_ok=True)
            finally:
                os.close(handle)


def _is_old(lock: Path) -> bool:
    """Whether the process that a lock names is gone: one that lives has perhaps not taken it yet."""
    pid = lock.stem.removeprefix(f"{platform.node()}-").partition("-")[0]
    return not (pid.isdigit() and Path(f"/proc/{pid}").exists())

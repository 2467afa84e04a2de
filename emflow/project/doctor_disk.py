"""Where results and scratch files go: room, kind of file system, rights, locks, its clock, open files."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from emflow.project.finding import Finding

_SHARED = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "fuse.sshfs", "afs", "panfs"}
_MEMORY = {"tmpfs", "ramfs"}
_SKEW_S = 2.0
_FILES = 4096


def space() -> Iterator[Finding]:
    """Look at the room for results and for scratch."""
    places = [("results", Path.cwd()), ("scratch", Path(tempfile.gettempdir()))]
    if os.environ.get("SLURM_TMPDIR"):
        places.append(("node's scratch", Path(os.environ["SLURM_TMPDIR"])))
    for name, folder in places:
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            yield Finding(
                name, "fail", f"{folder} is not there, or cannot be written", "Steps that need it stop.",
                "Set TMPDIR to a folder of your own." if name != "results" else "Work in a folder of your own.",
            )  # fmt: skip
            continue
        free, kind = shutil.disk_usage(folder).free / 1e9, file_system(folder)
        found = f"{free:.0f} GB free in {folder} ({kind})"
        if free < 5:
            yield Finding(
                name, "warn", found, "Extracted particles of a real session do not fit.",
                "Work in a folder with more space." if name == "results" else "Free some space, or set TMPDIR.",
            )  # fmt: skip
        elif kind in _MEMORY:
            yield Finding(
                name, "warn", found, "What is written there takes memory, and is lost with a restart.",
                "Set TMPDIR to a disk." if name != "results" else "Work on a disk.",
            )  # fmt: skip
        else:
            yield Finding(name, "ok", found)


def rights() -> Iterator[Finding]:
    """Write a file here; lock it; compare its time with this machine's clock."""
    kind = file_system(Path.cwd())
    try:
        with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix=".doctor-") as handle:
            before = time.time()
            handle.write(b"x")
            handle.flush()
            os.fsync(handle.fileno())
            skew = os.fstat(handle.fileno()).st_mtime - before
            yield Finding("permissions", "ok", f"can write in {Path.cwd()}")
            yield _locks(handle.fileno(), kind)
    except OSError as error:
        yield Finding(
            "permissions", "fail", f"cannot write in {Path.cwd()}: {error.strerror}", "No result can be kept.",
            "Work in a folder of your own.",
        )  # fmt: skip
        return
    yield clock(skew)


def _locks(handle: int, kind: str) -> Finding:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Finding(
            "locks", "warn", f"this file system ({kind}) has no locks ({error.strerror})",
            "Two runs on one project are told apart by Snakemake's own lock only.",
            "Never start two; or ask for the file system to be mounted with flock.",
        )  # fmt: skip
    if kind in _SHARED:
        return Finding(
            "locks", "ok", f"works here on {kind}",
            "Between two machines it holds only where the server keeps locks (NFS 4, or Lustre mounted with flock).",
            "Start a project's runs from one machine.",
        )  # fmt: skip
    return Finding("locks", "ok", f"work on {kind}")


def clock(skew_s: float) -> Finding:
    """Judge how far the file server's clock is from this machine's."""
    if abs(skew_s) < _SKEW_S:
        return Finding("clock", "ok", "file system and machine agree on the time")
    way = "ahead of" if skew_s > 0 else "behind"
    return Finding(
        "clock", "warn", f"the file system's clock is {abs(skew_s):.1f} s {way} this machine's",
        "Snakemake tells by time what is new: finished steps may run again, or changed ones not.",
        "Ask for both to be set by the same time server (chrony, ntp).",
    )  # fmt: skip


def open_files() -> Iterator[Finding]:
    """Look at how many files one process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FILES:
        yield Finding(
            "open files", "warn" if soft < 1024 else "ok", f"{soft} at a time (limit {hard})",
            "A run over thousands of shards may stop with 'too many open files'.",
            f"ulimit -n {min(hard, 2 * _FILES) if hard > 0 else 2 * _FILES} before the run.",
        )  # fmt: skip
    else:
        yield Finding("open files", "ok", f"{soft} at a time")


def file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Kind of the file system that a folder is on, as ``nfs4`` or ``ext4``; ``unknown`` where it is not told."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    found, longest = "unknown", -1
    where = str(folder.resolve())
    for line in lines:
        left, dash, right = line.partition(" - ")
        fields = left.split()
        if not dash or len(fields) < 5:
            continue
        point = fields[4].replace("\\040", " ")
        inside = point == "/" or where == point or where.startswith(point + "/")
        if inside and len(point) >= longest:
            found, longest = right.split()[0], len(point)
    return found

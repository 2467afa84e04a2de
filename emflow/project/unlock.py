"""Remove what a killed run left, once nothing of that run is alive."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil

from emflow.io.atomic import remove_partial
from emflow.project.lock import DEAD_S, holder, is_held, snakemake_locks
from emflow.step import EmflowError


def unlock_project(project: str, wait_s: float = 30.0) -> list[Path]:
    """Remove Snakemake's lock files of a project, and files half written; return those removed.

    Steps of a killed run end within moments of it, in a long kernel within 20 s; they are waited for.

    Raises
    ------
    EmflowError
        If a run, a step or a queued job of the project is left, saying which and what to do.
    """
    folder = Path("results") / project
    if is_held(folder):
        raise EmflowError(
            f"{folder}: {holder(folder) or 'a snakemake'} is still running this project. Nothing was unlocked. "
            f"(A run on another machine counts as dead {DEAD_S / 60:.0f} minutes after its last sign of life.)"
        )
    jobs = queued_jobs()
    if jobs:
        raise EmflowError(
            f"SLURM still has jobs of this folder: {'; '.join(f'{n} ({what})' for n, what in jobs.items())}. "
            "Let them end (their results are good), or cancel them with "
            f"`scancel {' '.join(jobs)}`, then run `emflow unlock` again."
        )
    deadline = time.monotonic() + wait_s
    while left := running_steps(project):
        if time.monotonic() > deadline:
            listed = "; ".join(f"process {pid}: {command}" for pid, command in left)
            raise EmflowError(
                f"{folder}: steps of the killed run are still writing ({listed}). Stop them with "
                f"`kill {' '.join(str(pid) for pid, _ in left)}`, then run `emflow unlock` again."
            )
        time.sleep(0.2)
    locks = snakemake_locks(project)
    for path in locks:
        path.unlink(missing_ok=True)
    remove_partial(folder)
    return locks


def running_steps(project: str) -> list[tuple[int, str]]:
    """Living emflow steps of a project in this folder: process and command."""
    here, mark = os.getcwd(), f"results/{project}/"
    own = {process.pid for process in psutil.Process().parents()} | {os.getpid()}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid in own or process.status() == psutil.STATUS_ZOMBIE or process.cwd() != here:
                continue
            words = process.cmdline()
        except psutil.Error:  # gone, or another user's
            continue
        if any(Path(word).name == "emflow" or word == "emflow.cli" for word in words[:3]) and any(
            mark in f"{word}/" for word in words
        ):
            found.append((process.pid, " ".join(words[1:4])))
    return found


def queued_jobs() -> dict[str, str]:
    """SLURM jobs, queued or running, that were submitted from this folder: number and what it is."""
    if shutil.which("squeue") is None:
        return {}
    asked = subprocess.run(
        ["squeue", "--me", "--noheader", "--format=%i|%T|%k|%Z"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if asked.returncode != 0 and not Path(".snakemake/slurm_logs").exists():  # never ran here through SLURM
        return {}
    if asked.returncode != 0:
        raise EmflowError(
            f"squeue does not answer ({asked.stderr.strip() or 'no message'}), so it is not known whether jobs "
            "of this folder are left. Try again when SLURM answers."
        )
    rows = (line.strip().split("|", 3) for line in asked.stdout.splitlines() if line.count("|") >= 3)
    return {
        number: f"{comment.removeprefix('rule_').replace('_wildcards_', ' ')}, {state.lower()}"
        for number, state, comment, folder in rows
        if os.path.realpath(folder) == os.path.realpath(os.getcwd())
    }

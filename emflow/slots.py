"""GPU slots: which devices of this machine a job gets, settled by file locks before CUDA starts.

A job that uses GPU 1 must leave nothing on GPU 0, and CUDA reads ``CUDA_VISIBLE_DEVICES`` once, when it starts.
So devices are listed by ``nvidia-smi``, locked here, and only then shown to torch. A lock is the kernel's (flock):
it goes with its process, however that ends. Locks are of the machine, not of a project or a user.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from emflow.step import EmflowError

log = logging.getLogger("emflow")

FOLDER = Path("/tmp")
"""Where locks lie: one folder for all jobs of a machine, whatever their TMPDIR."""
_CROWDED = 0.1
"""Part of a GPU's memory that other programs may hold before it is worth a word."""
_COARSE_MB = 1024
"""Memory in use is compared in such steps: idle GPUs are equal."""
_GPU = re.compile(r"^GPU (\d+): .*\(UUID: (GPU-[^)]+)\)")
_MIG = re.compile(r"^\s+MIG .*\(UUID: (MIG-[^)]+)\)")


@dataclass(frozen=True)
class Gpu:
    """A GPU, or an instance of one (MIG)."""

    name: str
    """What it is locked by: its UUID, or its number where none is known."""
    token: str
    """What ``CUDA_VISIBLE_DEVICES`` is to say."""
    index: str = ""
    """Number of the card, as nvidia-smi counts."""
    used_mb: int = 0
    """Memory in use on the card, by whomever."""
    total_mb: int = 0


@dataclass
class Grant:
    """Devices that this process holds until :meth:`release` or its end."""

    gpus: list[Gpu]
    handles: list[int] = field(default_factory=list)

    def release(self) -> None:
        """Let others have them."""
        while self.handles:
            os.close(self.handles.pop())


def visible(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """GPUs of this machine that ``CUDA_VISIBLE_DEVICES`` leaves, in its order; none without a driver.

    Numbers, UUIDs, beginnings of UUIDs and MIG instances are understood; as for CUDA, what follows an entry that
    does not exist does not count. Of a card that is divided (MIG) a number stands for all its instances.

    Raises
    ------
    EmflowError
        If nvidia-smi does not answer.
    """
    installed = _installed()
    mask = environment.get("CUDA_VISIBLE_DEVICES")
    if mask is None or not installed:
        return installed
    chosen: list[Gpu] = []
    for token in (part.strip() for part in mask.split(",")):
        if token.isdigit():
            # whole cards keep the number: CUDA may count otherwise than nvidia-smi, and the user's word holds
            found = [
                gpu if gpu.name.startswith("MIG-") else replace(gpu, token=token)
                for gpu in installed
                if gpu.index == token
            ]
        else:
            found = [gpu for gpu in installed if token and gpu.name.startswith(token)]
            found = found if len(found) == 1 else []
        if not found:
            break
        names = {gpu.name for gpu in chosen}
        chosen += [gpu for gpu in found if gpu.name not in names]
    return chosen


def _installed() -> list[Gpu]:
    """All GPUs, a divided one as its instances."""
    cards: list[list[Gpu]] = []
    for line in _ask("-L").splitlines():
        if card := _GPU.match(line):
            cards.append([Gpu(card[2], card[2], card[1])])
        elif (instance := _MIG.match(line)) and cards:
            whole = [gpu for gpu in cards[-1] if gpu.name.startswith("MIG-")]
            cards[-1] = [*whole, Gpu(instance[1], instance[1], cards[-1][0].index)]
    gpus = [gpu for card in cards for gpu in card]
    if len(gpus) < 2:
        return gpus
    memory = {}
    for line in _ask(
        "--query-gpu=uuid,memory.used,memory.total", "--format=csv,noheader,nounits"
    ).splitlines():
        uuid, *megabytes = (part.strip() for part in line.split(","))
        if len(megabytes) == 2 and all(part.isdigit() for part in megabytes):  # "[N/A]" on some
            memory[uuid] = int(megabytes[0]), int(megabytes[1])
    none = (0, 0)
    return [
        replace(gpu, used_mb=memory.get(gpu.name, none)[0], total_mb=memory.get(gpu.name, none)[1])
        for gpu in gpus
    ]


def _ask(*words: str) -> str:
    try:
        done = subprocess.run(["nvidia-smi", *words], capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return ""
    except subprocess.TimeoutExpired:
        raise EmflowError(
            "nvidia-smi has not answered for a minute: the GPU's driver hangs. Ask for the machine to be looked "
            "at, or set execution.device to cpu."
        ) from None
    return done.stdout if done.returncode == 0 else ""


def take(gpus: Sequence[Gpu], wanted: int, sharers: int = 1, folder: Path | None = None) -> Grant:
    """Take some of the GPUs, all at once, waiting until so many are free; those with the most free memory first.

    Nothing is held while waiting, so that jobs that want two and four cannot block each other for ever; and who
    waits longest is served first, so that many small jobs do not starve a large one. No GPU is shared unless
    ``sharers`` says so.

    Parameters
    ----------
    gpus
        Those that this job may use.
    wanted
        How many it needs.
    sharers
        Jobs that may use one GPU at a time. Only jobs that both allow it share.
    folder
        Where the locks lie; None for that of the machine.

    Raises
    ------
    EmflowError
        If there are fewer than wanted.
    """
    if wanted > len(gpus):
        raise EmflowError(
            f"The job asks for {wanted} GPUs (execution.gpus), but may use {len(gpus)} here. Set execution.gpus to "
            "at most that, or look at CUDA_VISIBLE_DEVICES and nvidia-smi."
        )
    if wanted > 1 and any(gpu.name.startswith("MIG-") for gpu in gpus):
        raise EmflowError(
            f"The job asks for {wanted} GPUs (execution.gpus), but the ones here are instances of divided cards "
            "(MIG), which cannot work together. Set execution.gpus to 1."
        )
    folder = folder or FOLDER
    gpus = sorted(gpus, key=lambda gpu: gpu.used_mb // _COARSE_MB)
    began = time.monotonic()
    with _turn(gpus, wanted, folder):
        grant = _try(gpus, wanted, sharers, folder)
        if len(grant.gpus) < wanted:
            _say_waiting(gpus, wanted)
        while len(grant.gpus) < wanted:
            grant.release()
            time.sleep(0.2)
            grant = _try(gpus, wanted, sharers, folder)
    waited = time.monotonic() - began
    if waited > 1:
        log.info("GPU %s after waiting %.0f s", ", ".join(gpu.name for gpu in grant.gpus), waited)
    for gpu in grant.gpus:
        if sharers == 1 and gpu.used_mb > _CROWDED * gpu.total_mb:
            log.warning(
                "GPU %s: other programs hold %.1f of its %.1f GB; batches shrink to what is left. `nvidia-smi` "
                "says which.",
                gpu.index,
                gpu.used_mb / 1024,
                gpu.total_mb / 1024,
            )
    return grant


def _say_waiting(gpus: Sequence[Gpu], wanted: int) -> None:
    log.warning(
        "Waiting for %d of %d GPUs: other jobs of emflow hold them (`lslocks | grep emflow-gpu` says which). The "
        "profile's resource gpu should be the number of GPUs; to let jobs share one, raise execution.jobs_per_gpu.",
        wanted,
        len(gpus),
    )


@contextmanager
def _turn(gpus: Sequence[Gpu], wanted: int, folder: Path) -> Iterator[None]:
    """Wait for one's turn among the jobs that may use the same GPUs."""
    names = " ".join(sorted(gpu.name for gpu in gpus))
    handle = _open(folder, "queue-" + hashlib.sha256(names.encode()).hexdigest()[:12])
    try:
        if not _lock(handle, fcntl.LOCK_EX):
            _say_waiting(gpus, wanted)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _try(gpus: Sequence[Gpu], wanted: int, sharers: int, folder: Path) -> Grant:
    """As many as are free now, at most ``wanted``."""
    grant = Grant([])
    for place in range(sharers):  # an empty GPU before a shared one
        for gpu in gpus:
            if len(grant.gpus) == wanted:
                return grant
            if gpu in grant.gpus:
                continue
            whole = _open(folder, gpu.name)
            if not _lock(whole, fcntl.LOCK_EX if sharers == 1 else fcntl.LOCK_SH):
                os.close(whole)
                continue
            grant.handles.append(whole)
            if sharers > 1:
                part = _open(folder, f"{gpu.name}-{place}")
                if not _lock(part, fcntl.LOCK_EX):
                    os.close(part)
                    os.close(grant.handles.pop())
                    continue
                grant.handles.append(part)
            grant.gpus.append(gpu)
    return grant


def _lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(folder: Path, name: str) -> int:
    """Open a lock file, anybody's; what is in it is never read or written."""
    safe = re.sub(r"[^A-Za-z0-9-]", "_", name)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    for path in (folder / f"emflow-gpu-{safe}.lock", folder / f"emflow-gpu-{os.getuid()}-{safe}.lock"):
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            pass
        except PermissionError:  # another user's, made under a strict umask before it could be opened up
            continue
        try:
            handle = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return os.open(path, flags)
        os.fchmod(handle, 0o644)  # others must be able to lock it too
        return handle
    raise EmflowError(f"{folder}: GPU locks cannot be made there; look at the folder's permissions.")

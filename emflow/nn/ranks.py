"""One step in several processes of one job, each with its own GPU; all on this machine.

The processes (ranks) are started and watched by torchrun's own part for that. They meet in a file of a private
folder and talk over the loopback interface only: torchrun's rendezvous would open a port to the network.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist

from emflow import device as devices
from emflow.em.batches import is_out_of_memory
from emflow.step import EmflowError, Run

log = logging.getLogger("emflow")

_PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others: one may read from a slow disk."""
_LEFT_ALONE = ("SIGHUP", "SIGQUIT")
_HANDLED = ("SIGTERM", "SIGINT", *_LEFT_ALONE)
"""Signals that torch handles from the start of the processes on."""


@dataclass(frozen=True)
class Ranks:
    """The processes of one step."""

    number: int = 0
    """Of this process, from 0."""
    count: int = 1
    device: torch.device = torch.device("cpu")
    """Where tensors meet."""

    @property
    def first(self) -> bool:
        """Whether this process writes what is to be written."""
        return self.number == 0

    def share(self, count: int) -> slice:
        """This process' part of ``count`` items."""
        return slice(self.number * count // self.count, (self.number + 1) * count // self.count)

    def add(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sums of each tensor over all processes: the same bits in all of them."""
        if self.count == 1:
            return list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).to(self.device)
        _together(lambda: dist.all_reduce(flat))
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor).to(tensor.device) for part, tensor in zip(parts, tensors, strict=True)]

    def total(self, value: float) -> float:
        """Sum of a number over all processes."""
        return float(self.add([torch.tensor([value], dtype=torch.float64)])[0])

    def first_says(self, tensor: Tensor) -> Tensor:
        """What the first process has in place of a tensor of the same shape."""
        if self.count == 1:
            return tensor
        told = tensor.to(self.device, copy=True).contiguous()
        _together(lambda: dist.broadcast(told, 0))
        return told.to(tensor.device)

    def first_tells(self, text: str) -> str:
        """What the first process has in place of a text of any length."""
        if self.count == 1:
            return text
        content = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        size = int(self.first_says(torch.tensor([len(content)]))[0])
        content = torch.nn.functional.pad(content, (0, max(0, size - len(content))))[:size]
        return bytes(self.first_says(content).tolist()).decode()

    def agree(self, key: str, what: str) -> None:
        """Wait for all processes, and make sure that they hold the same.

        Raises
        ------
        EmflowError
            If they do not.
        """
        same = self.first_tells(key) == key
        if self.total(float(not same)):
            raise EmflowError(
                f"The {self.count} processes of this job do not have the same {what}: a file was read by one "
                "and not by another, or changed meanwhile. Run it again."
            )


class PeerLost(EmflowError):
    """Another process of the job has ended: its reason counts, not this one."""


def _together(exchange: Callable[[], object]) -> None:
    try:
        exchange()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise PeerLost(f"lost touch with the other processes ({str(error).splitlines()[0]})") from None


def wanted(run: Run) -> int:
    """Processes that a step is to be divided among; 1 in each of them. Their GPUs are held from now on."""
    if devices.RANK in os.environ or run.gpus < 2:
        return 1
    if run.device == "mps" or ":" in run.device:
        raise EmflowError(
            f"execution.device is '{run.device}', one device, but execution.gpus is {run.gpus}. Set device to auto "
            "or gpus to 1."
        )
    if run.device == "cpu":
        return run.gpus
    if devices.reserve(run.device, run.gpus, run.jobs_per_gpu) is None:
        log.info("No GPU here: execution.gpus counts nothing, one process does all.")
        return 1
    return run.gpus


def launch(words: Sequence[str], run: Run, count: int) -> None:
    """Run an emflow command as ``count`` ranks and wait for their end.

    Parameters
    ----------
    words
        The command without what :class:`emflow.step.Run` says.
    run
        How to run; the CPU threads are divided among the ranks.
    count
        How many, from :func:`wanted`.

    Raises
    ------
    EmflowError
        If one fails, with its reason; the others are ended.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, start_processes

    device = "cpu" if run.device == "cpu" else "cuda"
    threads = max(1, (run.threads or torch.get_num_threads()) // count)
    how = run.model_copy(update={"device": device, "threads": threads}).model_dump(mode="json")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in how.items() if value is not None]
    before = {name: signal.getsignal(getattr(signal, name)) for name in _HANDLED}
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it tells what is told here
    with tempfile.TemporaryDirectory(prefix="emflow-ranks-") as folder:
        common = {"EMFLOW_PARENT": str(os.getpid()), "OMP_NUM_THREADS": str(threads)}
        if (tokens := devices.held_tokens()) is not None:
            common["CUDA_VISIBLE_DEVICES"] = tokens
        environments = {
            number: {**os.environ, **common, devices.RANK: f"{number} {count} {folder}"}
            for number in range(count)
        }
        arguments = dict.fromkeys(range(count), ("-m", "emflow.cli", *words, *flags))
        log.info("working in %d processes of %d CPU threads, device %s", count, threads, device)
        ranks = None
        try:
            ranks = start_processes(
                "emflow", sys.executable, arguments, environments, DefaultLogsSpecs(log_dir=folder)
            )
            for name in _LEFT_ALONE:  # nohup's, for one
                if before[name] is not None:
                    signal.signal(getattr(signal, name), before[name])
            result = ranks.wait(period=0.2)
        except SignalException as stopped:  # the ranks get the same signal, and time to save their state
            if ranks is not None:
                ranks.close(stopped.sigval, timeout=25)
            raise SystemExit(128 + stopped.sigval) from None
        finally:
            if ranks is not None:
                ranks.close()
            for name, handler in before.items():
                if handler is not None:
                    signal.signal(getattr(signal, name), handler)
        if result is not None and result.is_failed():
            codes = {number: failure.exitcode for number, failure in result.failures.items()}
            raise EmflowError(_reason(Path(folder), codes, count))


def _reason(folder: Path, codes: dict[int, int], count: int) -> str:
    """Why a step ended: the reason of the rank that failed first, not of those it took along."""
    said = sorted(folder.glob("reason_*"), key=lambda path: path.stat().st_mtime_ns)
    if said:
        return f"Process {said[0].name.removeprefix('reason_')} of {count}: {said[0].read_text()}"
    killed = {number: -code for number, code in codes.items() if code < 0 and -code != signal.SIGTERM}
    for number, by in killed.items():
        return (
            f"Process {number} of {count} was killed by signal {by} ({signal.Signals(by).name}); where nobody did "
            "so, memory ran out: give the job more, or set execution.gpus lower. What was reached is kept; run it again."
        )
    return f"The processes of this step ended with the codes {codes}; what they said stands above."


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the other processes of this step, if there are any."""
    if devices.RANK not in os.environ:
        yield Ranks()
        return
    number, count = devices.rank()
    folder = Path(os.environ[devices.RANK].split(" ", 2)[2])
    if number:
        log.setLevel(logging.ERROR)  # the first tells it for all
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = loopback
    cuda = device.type == "cuda"
    try:
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=dist.FileStore(str(folder / "meeting"), count),
            rank=number,
            world_size=count,
            timeout=_PATIENCE,
            device_id=device if cuda else None,
        )
        yield Ranks(number, count, device)
    except PeerLost:
        time.sleep(5)  # who failed first is found first, and ends this process
        raise
    except Exception as error:
        (folder / f"reason_{number}").write_text(str(error) or type(error).__name__)
        raise
    dist.destroy_process_group()

"""Run steps of emflow one after the other, each in a process of its own, disturbed or not.

Started with the library of disturb.c preloaded. It loads emflow and torch once; each request (a line of JSON) forks
a child that calls ``emflow.cli.main`` as the command does, so that a run costs its own work and no start.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import logging
import os
import resource
import signal
import sys
import threading
import time
import traceback

from emflow.config import ROOMS


def main() -> None:
    """Answer requests until the input ends."""
    import torch

    torch.set_num_threads(1)
    for name in (*(f"emflow.{room}.command" for room in ROOMS), "emflow.cli"):
        importlib.import_module(name)
    for name in ("emflow.report.command", "emflow.report.page", "scipy.ndimage", "sklearn.mixture"):
        importlib.import_module(name)
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)


def serve(asked: dict) -> dict:
    """Run one step; return its exit code (negative: the signal), seconds of CPU, and how long it took to leave."""
    child = os.fork()
    if child == 0:
        _step(asked)
    left: list[float] = []
    if asked.get("signal"):
        threading.Thread(target=_signal_later, args=(child, asked, left), daemon=True).start()
    _, status, usage = os.wait4(child, 0)
    took = time.monotonic() - left[0] if left else None
    return {
        "code": os.waitstatus_to_exitcode(status),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "left_after_s": took,
    }


def _signal_later(child: int, asked: dict, left: list[float]) -> None:
    time.sleep(asked["after_s"])
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, asked["signal"])
        left.append(time.monotonic())


def _step(asked: dict) -> None:
    """Be the step; never returns."""
    from emflow.cli import main as emflow

    code = 1
    try:
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(asked["folder"])
        for name, value in asked.get("limits", {}).items():
            resource.setrlimit(
                getattr(resource, name), (value, resource.getrlimit(getattr(resource, name))[1])
            )
        if asked.get("more_memory_bytes"):
            pages = int(open("/proc/self/statm").read().split()[0])  # noqa: SIM115
            most = pages * os.sysconf("SC_PAGE_SIZE") + asked["more_memory_bytes"]
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        shim = ctypes.CDLL(None)
        shim.disturb_events.restype = ctypes.c_char_p
        mode, moment, detail, below, away = asked["disturb"]
        shim.disturb(mode, ctypes.c_long(moment), ctypes.c_long(detail), below.encode(), away.encode())
        sys.argv = ["emflow", *asked["words"]]
        try:
            emflow()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        shim.disturb(0, ctypes.c_long(0), ctypes.c_long(0), b"/", b"/")
        if asked.get("events"):
            with open(asked["events"], "w") as handle:
                handle.write(shim.disturb_events().decode())
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()

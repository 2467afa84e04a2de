"""What `emflow watch` itself needs: memory over many runs, CPU time of a look, with many micrographs.

    python benchmarks/watch.py [--files 5000] [--runs 200] [--write]

A folder of FILES micrographs (links to one) is watched; RUNS times a new one comes, and a run, a count and a report
are started, each replaced by `true`. The clock is moved by hand, so that nothing waits. Prints one JSON line: resident
memory after the 20th run and after the last, what it grew by, CPU-seconds of the first judgement of all files, of a
look at them, of a run. --write keeps it in benchmarks/results/watch.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from emflow.config import load_settings
from emflow.io.mrc import write_mrc
from emflow.project.watch.child import Commands
from emflow.project.watch.watcher import Watcher

RESULTS = Path(__file__).parent / "results" / "watch.json"
FIRST = 20
"""Runs after which the memory is taken as settled."""


def measure(files: int, runs: int) -> dict[str, float | int]:
    """Watch a folder here; return the figures."""
    Path("raw").mkdir()
    write_mrc("image.mrc", np.eye(2), 1.0)
    for number in range(files):
        os.link("image.mrc", f"raw/{number:06d}.mrc")
    limits = {"settle_s": 10, "cycle_every_s": 0, "disk_free_gb": None}
    settings = load_settings({"project": "p", "input": {"micrographs": "raw"}, "watch": limits})
    now = 0.0
    watcher = Watcher(settings, Commands(["true"], ["true"], ["true"], ["true"]), clock=lambda: now)

    def turns(count: int) -> None:
        nonlocal now
        for _ in range(count):
            now += 10
            watcher.turn()
            while watcher.child is not None and watcher.child.code() is None:
                time.sleep(0.001)

    def memory_mb() -> float:
        gc.collect()
        return psutil.Process().memory_info().rss / 2**20

    turns(1)
    begun = time.process_time()
    turns(1)
    judged = time.process_time() - begun
    settled, run_s = 0.0, 0.0
    for number in range(FIRST + runs):
        if number == FIRST:
            settled, run_s = memory_mb(), time.process_time()
        write_mrc(f"raw/new{number:06d}.mrc", np.eye(2), 1.0)
        while watcher.cycles <= number:
            turns(1)
    run_s = (time.process_time() - run_s) / runs
    turns(10)
    begun = time.process_time()
    watcher.arrivals.look(now + 1)
    look_s = time.process_time() - begun
    last = memory_mb()
    return {
        "files": files,
        "runs": runs,
        "memory_after_20_runs_mb": round(settled, 1),
        "memory_at_the_end_mb": round(last, 1),
        "grown_mb": round(last - settled, 2),
        "first_judgement_cpu_s": round(judged, 2),
        "look_cpu_s": round(look_s, 3),
        "run_cpu_s": round(run_s, 3),
    }


def main() -> None:
    """Measure in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    logging.disable()
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            figures = measure(given.files, given.runs)
        finally:
            os.chdir(here)
    print(json.dumps(figures))
    if given.write:
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

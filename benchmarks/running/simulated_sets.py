"""The command line of benchmarks over kinds of simulated sets and seeds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

Result = dict[str, Any]


def run_sets(
    about: str | None,
    kinds: Iterable[str],
    measure: Callable[[str, int, argparse.Namespace], Result],
    keep: Callable[[Result], None],
    **numbers: float,
) -> None:
    """Measure each kind of set and seed that the command line names, and keep the results if it says so.

    Parameters
    ----------
    about
        The program's own description.
    measure
        Takes a kind, a seed and the options.
    numbers
        Options that are numbers, with their defaults.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="*", default=list(kinds))
    for name, default in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--write", action="store_true", help="add to benchmarks/results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for kind in given.sets:
        for seed in given.seeds:
            result = measure(kind, seed, given)
            print(json.dumps(result), flush=True)
            if given.write:
                keep(result)

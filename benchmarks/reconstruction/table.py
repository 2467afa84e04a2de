"""Tables of `benchmarks/reconstruct.py`."""

from __future__ import annotations

from statistics import median
from typing import Any

Row = dict[str, Any]
COLUMNS = {
    "pose_error_median_deg": "pose °",
    "pose_error_p90_deg": "p90 °",
    "poses_lost_fraction": ">15°",
    "shift_error_median_angstrom": "shift Å",
    "fsc_20_10": "FSC 20-10",
    "fsc_10_7": "10-7",
    "fsc_7_5": "7-5",
    "true_angstrom": "true Å",
    "halves_angstrom": "halves Å",
    "reported_angstrom": "stated Å",
    "reported_over_true": "stated/true",
    "cpu_s": "CPU-s",
    "leader_cpu_s": "leader",
    "cpu_ms_per_particle": "ms/particle",
    "peak_memory_mb": "MB",
    "iterations": "iter.",
}
NO_RATIO = ("poses_lost_fraction", "reported_over_true", "leader_cpu_s", "iterations")


def print_table(rows: list[Row], peer: str) -> None:
    """One line per set, seed and tool; after each set the medians over seeds and their ratio to the peer's."""
    if not rows:
        return
    print("| set | seed | tool | " + " | ".join(COLUMNS.values()) + " |")
    print("|---" * (3 + len(COLUMNS)) + "|")
    for name in dict.fromkeys(row["set"] for row in rows):
        here = [row for row in rows if row["set"] == name]
        for row in here:
            print(_line(name, str(row["seed"]), row))
        tools = dict.fromkeys(row["tool"] for row in here)
        common = [s for s in {row["seed"] for row in here} if _tools(here, s) == set(tools)]
        middle = {
            tool: _median([r for r in here if r["tool"] == tool and r["seed"] in common]) for tool in tools
        }
        for tool, row in middle.items():
            print(_line(name, f"median of {len(common)}", row | {"tool": tool}))
        for tool, row in middle.items():
            if peer in middle and tool != peer:
                print(_line(name, "ratio", _ratio(row, middle[peer]) | {"tool": f"{tool} / {peer}"}))


def print_noise(rows: list[Row]) -> None:
    """What is stated of pure noise."""
    if not rows:
        return
    print("\n| set | seed | tool | start | stated Å | verdict | CPU-s |\n|---|---|---|---|---|---|---|")
    for row in rows:
        claim = row["reported_angstrom"]
        cells = (row["set"], row["seed"], row["tool"], row["start"], claim, row["verdict"], row["cpu_s"])
        print("| " + " | ".join("none" if cell is None else str(cell) for cell in cells) + " |")


def _tools(rows: list[Row], seed: int) -> set[str]:
    return {row["tool"] for row in rows if row["seed"] == seed}


def _median(rows: list[Row]) -> Row:
    found = {name: [row[name] for row in rows if row.get(name) is not None] for name in COLUMNS}
    return {name: median(values) for name, values in found.items() if values}


def _ratio(row: Row, other: Row) -> Row:
    return {
        name: row[name] / other[name]
        for name in COLUMNS
        if name not in NO_RATIO and row.get(name) and other.get(name)
    }


def _line(name: str, seed: str, row: Row) -> str:
    cells = (row.get(column) for column in COLUMNS)
    shown = (
        "" if c is None else f"{c:.3f}" if isinstance(c, float) and abs(c) < 10 else f"{c:.0f}" for c in cells
    )
    return f"| {name} | {seed} | {row['tool']} | " + " | ".join(shown) + " |"

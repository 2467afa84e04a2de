"""The page of the fault matrix: what outcomes are called, and their table."""

from __future__ import annotations

from collections.abc import Sequence

from chain import ROOT

Outcomes = dict[str, dict[str, str]]
"""Rule → fault → outcome."""
STORED = ROOT / "docs" / "faults-matrix.json"
PAGE = ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- made by tests/faults/matrix.py -->\n", "<!-- end -->\n"

SAME, DIED, LEFT, ERROR, SAID = "same", "died", "left", "error", "said"
LEGEND = {
    SAME: "went on: same bytes",
    DIED: "the process died; then same bytes",
    LEFT: "left in order (code 143); then same bytes",
    ERROR: "clear error (code 2), nothing set aside; then same bytes",
    SAID: "made from what is there, and says what lacks; then same bytes",
}


def table(outcomes: Outcomes, faults: Sequence[str]) -> str:
    """The matrix as a table of Markdown."""
    lines = ["| rule | " + " | ".join(faults) + " |", "|---" * (len(faults) + 1) + "|"]
    for rule, cells in outcomes.items():
        lines.append(f"| {rule} | " + " | ".join(cells.get(fault, "–") for fault in faults) + " |")
    return "\n".join([*lines, "", *(f"- **{word}**: {text}" for word, text in LEGEND.items())]) + "\n"


def with_table(page: str, outcomes: Outcomes, faults: Sequence[str]) -> str:
    """The page with the table between its marks."""
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}{table(outcomes, faults)}{END}{rest.split(END)[1]}"

"""Print the main figures of a finished project and where its page is.

python -m emflow.project.figures results/demo
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SECTIONS = (
    "session", "ctf", "pick", "extract", "reconstruct.abinitio", "reconstruct.refine", "validate", "truth",
    "simulation", "cost",
)  # fmt: skip
"""Sections of summary.json, in the order of the chain."""


def lines(summary: dict[str, dict[str, Any]]) -> list[str]:
    """Return the numbers of each section, one a line, aligned."""
    found = []
    for section in (name for name in SECTIONS if summary.get(name)):
        found.append(f"{section}")
        for name, value in summary[section].items():
            if isinstance(value, float):
                value = f"{value:.4g}"
            if isinstance(value, (int, str)):
                found.append(f"  {name:<45} {value}")
    return found


def main(project: Path) -> None:
    """Print the figures of a project's summary.json, and the path of its page."""
    summary = json.loads((project / "report" / "summary.json").read_text(encoding="utf-8"))
    print("\n".join(lines(summary)))
    print(f"\nThe page: {(project / 'report' / 'index.html').resolve()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

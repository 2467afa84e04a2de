"""Where the workflow is."""

from __future__ import annotations

from pathlib import Path

import emflow
from emflow.step import EmflowError


def find_snakefile() -> Path:
    """Return the Snakefile of this folder, or else of the checkout that emflow runs from.

    Raises
    ------
    EmflowError
        If there is neither.
    """
    checkout = Path(emflow.__file__).resolve().parents[1] / "Snakefile"
    for path in (Path("Snakefile"), checkout):
        if path.is_file():
            return path
    raise EmflowError(f"No Snakefile in {Path.cwd()}: run this where emflow's Snakefile is.")

"""How many GPUs a run may use here, for the profiles."""

from __future__ import annotations

import sys

from emflow.slots import visible
from emflow.step import EmflowError


def count_gpus() -> int:
    """Return the number of GPUs, or of MIG instances, that this process may use; 0 where there is no driver."""
    try:
        return len(visible())
    except EmflowError as error:
        print(f"emflow: {error} GPU jobs run on the CPU.", file=sys.stderr)
        return 0

"""Stop a run that cannot fit on the disk before its first job; warn where it may not."""

from __future__ import annotations

import sys
from typing import Any

from emflow.project.estimate import Estimate, estimate, shortage, size
from emflow.project.workload import GUESS_FACTOR


def require_space(workflow: Any) -> None:
    """Called by Snakemake once it knows what it would run, and before it starts any job.

    A run is stopped where even the least that it can come to is more than what is free: a guessed number of
    particles counts a third. Where only the figure itself is more, it is warned of.
    """
    try:
        found = estimate(workflow)
    except (OSError, ValueError, TypeError, KeyError) as error:  # a damaged record stops no run
        print(f"emflow: the room that this run takes cannot be reckoned ({error}).", file=sys.stderr)
        return
    said = shortage(found)
    if not said:
        return
    print("\n".join(f"emflow: {line}" for line in said), file=sys.stderr)
    if least_bytes(found) > found.free_bytes:
        print(
            f"emflow: {size(least_bytes(found))} is the least that this can come to: nothing was started.",
            file=sys.stderr,
        )
        raise SystemExit(2)


def least_bytes(found: Estimate) -> float:
    """Least room that the run can take: three quarters of the figure; of a guessed one, a third of that."""
    return 0.75 * found.needed_bytes / (1.0 if found.work.counted else GUESS_FACTOR)

"""States of jobs as the SLURM executor understands them."""

from __future__ import annotations

from typing import Any


def heed_cancelled_jobs() -> None:
    """Let the executor see that a job was cancelled, so that it is tried again.

    sacct says ``CANCELLED by 1000``. The executor (2.8.0) knows ``CANCELLED`` alone and takes everything else for
    a job that goes on: it would wait for ever.
    """
    import snakemake_executor_plugin_slurm as executor

    ask = getattr(executor, "query_job_status", None)
    if ask is None:  # a later release asks otherwise
        return

    async def first_words(command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:
        states, seconds = await ask(command, logger)
        return states and {job: state.partition(" ")[0] for job, state in states.items()}, seconds

    executor.query_job_status = first_words

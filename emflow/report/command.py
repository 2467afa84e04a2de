"""The report command: results in, one page and summary.json out."""

from __future__ import annotations

import logging
from pathlib import Path

from emflow.device import prepare
from emflow.io.atomic import write_text
from emflow.io.record import Record
from emflow.report.gather import gather
from emflow.report.increments import figures, increments
from emflow.report.page import render, summary_text
from emflow.report.summary import summarise
from emflow.step import Run, StepConfig

log = logging.getLogger("emflow")


def report(results: Path, out: Path, /, *, run: Run = Run()) -> None:
    """Write one HTML page and summary.json about a project's results, finished or not.

    Parameters
    ----------
    results
        Folder of a project's results, such as results/demo.
    out
        Folder to write: index.html (opens from disk, needs nothing else) and summary.json.
    """
    prepare(run, gpu=False)
    with Record("report", StepConfig(), run, inputs=[results]):
        found = gather(results)
        summary = summarise(found)
        if since := increments(found, summary):
            summary["increments"] = figures(since)
        page = render(found, summary)
        write_text(out / "summary.json", summary_text(summary))
        write_text(out / "index.html", page)
        for problem in found.problems:
            log.warning("report: %s", problem)

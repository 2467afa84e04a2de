"""The processes that a watcher starts, one at a time, and how they are ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from emflow.project.watch.ready import FOLDER, WATCHED

_FAILED_RULE = re.compile(r"^Error in rule (\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Commands:
    """What a watcher runs."""

    live: Sequence[str]
    """The steps that keep up with the acquisition."""
    whole: Sequence[str]
    """Everything, with the pooled steps."""
    figures: Sequence[str]
    report: Sequence[str]


def project_commands(
    configfile: Path, project: Path, profile: str, more: Sequence[str], last: int
) -> Commands:
    """Return the commands of a real project; ``more`` are further words for snakemake."""
    python = sys.executable
    common = ["--profile", profile, "--keep-going", "--configfile", str(configfile), *more]
    return Commands(
        live=[python, "-m", "snakemake", "live", *common],
        whole=[python, "-m", "snakemake", "all", *common],
        figures=[python, "-m", "emflow.project.watch.figures", str(project), str(last)],
        report=[python, "-m", "emflow.cli", "report", str(project), str(project / "report")],
    )


class Child:
    """A process in a group of its own, so that Ctrl-C reaches the watcher alone, which ends it in order."""

    def __init__(self, kind: str, command: Sequence[str], project: Path, now: float) -> None:
        """Start it; what it says goes to a file of its kind, written anew each time."""
        self.kind, self.began = kind, now
        self.log = project / FOLDER / f"{kind}.log"
        environment = {**os.environ, WATCHED: "1"}
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, env=environment,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Number of the process, and of its group."""
        return self._process.pid

    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return self._process.poll()

    def end(self, hurry: Callable[[], int], patience_s: float = 120.0) -> None:
        """End it as Ctrl-C does: its jobs stop, its lock goes. Ever harder if it does not, or when ``hurry`` counts on."""
        for number, wait_s in ((signal.SIGINT, patience_s), (signal.SIGTERM, 10.0)):
            asked = hurry()
            self._signal(number)
            deadline = time.monotonic() + wait_s
            while self.code() is None and time.monotonic() < deadline and hurry() == asked:
                time.sleep(0.1)
            if self.code() is not None:
                return
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def failed_rules(self) -> list[str]:
        """Rules that failed, as snakemake said."""
        try:
            said = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return sorted(set(_FAILED_RULE.findall(said)))

"""The loop of ``emflow watch``: look, run, judge, tell; it imports nothing heavy and keeps no history."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emflow.config import Settings
from emflow.io.atomic import write_text
from emflow.project.lock import holder, is_held, snakemake_locks
from emflow.project.unlock import unlock_project
from emflow.project.watch.alarms import Alarms, Episode
from emflow.project.watch.arrivals import Arrivals
from emflow.project.watch.cadence import Cadence
from emflow.project.watch.channels import channels
from emflow.project.watch.child import Child, Commands
from emflow.project.watch.judge import Facts, readings
from emflow.project.watch.pace import Pace
from emflow.project.watch.ready import FOLDER, ReadyList
from emflow.project.watch.space import Space
from emflow.step import EmflowError

log = logging.getLogger("emflow")

_BACKOFF_S, _LONGEST_BACKOFF_S = 120.0, 3600.0
_BLOCKED_S = 30.0
_LISTED = 20
"""Waiting files that watch.json names."""
_REPORT_SHARE = 0.2
"""Most of the time that may go into making the report."""
NO_FIGURES: dict[str, Any] = {"processed": 0, "accepted": 0, "set_aside": 0, "behind": 0, "particles": 0}


class Watcher:
    """What is known while a project is watched; :meth:`turn` does what is due and never waits."""

    def __init__(
        self, settings: Settings, commands: Commands, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take up the project where an earlier watcher left it. ``clock`` gives seconds and never jumps."""
        self.cfg, self.project = settings.watch, settings.project
        self.folder = Path("results") / settings.project
        (self.folder / FOLDER).mkdir(parents=True, exist_ok=True)
        self._commands, self._clock = commands, clock
        self.arrivals = Arrivals(settings.input, self.cfg, ReadyList(self.folder))
        kept = self._read("state.json")
        episodes = {name: Episode(**episode) for name, episode in kept.get("alarms", {}).items()}
        self.alarms = Alarms(self.project, channels(self.cfg), episodes)
        self.cadence = Cadence(**kept.get("pooled", {}))
        self._kept = kept
        self.pace = Pace()
        source = self.arrivals.source
        fixed = re.split(r"[*?\[]", source)[0]
        base = Path(fixed if os.path.isdir(fixed) else os.path.dirname(fixed) or ".")
        self.spaces = [Space("results", self.folder)]
        if base.is_dir() and base.stat().st_dev != self.folder.stat().st_dev:
            self.spaces.append(Space("micrographs", base))
        self.child: Child | None = None
        self._figure()
        self.failed: dict[str, list[str]] = {}
        """Kind of run → rules that failed when it last ran; ["?"] where snakemake named none."""
        self.blocked = ""
        """Why no run can start."""
        self.cycles = 0
        self.last_cycle: dict[str, Any] = {}
        self.quiet_since = clock()
        self.problem_since: float | None = None
        self._began = _now()
        self._fresh = True  # one run at the start brings everything up to date
        self._figures_wanted, self._report_wanted = True, False
        self._counted = False
        self._appended, self._uncounted = 0, 0
        self._next = {"look": 0.0, "cycle": 0.0, "retry": float("inf"), "report": 0.0, "blocked": 0.0}
        self._failures = 0

    def turn(self) -> None:
        """Do what is due."""
        now = self._clock()
        self._look(now)
        self._collect(now)
        try:
            self._start(now)
        except OSError as error:  # no memory or no disk for a process: told, tried again
            self.failed["start"] = [f"cannot start ({error.strerror})"]
            self._next["cycle"] = now + _BACKOFF_S
        self._judge(now)
        self.alarms.deliver(now)
        self._keep()
        self._store("watch.json", self.status(), self.folder)

    def finished(self) -> bool:
        """Whether all that is there has been processed, as far as it can be."""
        idle = self.child is None and not (self._figures_wanted or self._report_wanted or self.blocked)
        return idle and not self._fresh and not self.arrivals.waiting(1) and not self._whole_due()

    def stop(self, hurry: Callable[[], int]) -> None:
        """End what runs, in order, and leave no lock."""
        if self.child is not None:
            log.info("ending %s (process %d)", self.child.kind, self.child.pid)
            self.child.end(hurry)
            self.child = None
        if not is_held(self.folder) and snakemake_locks(self.project):
            try:
                unlock_project(self.project)
            except EmflowError as error:
                log.warning("%s", error)
        self._keep()
        self._store("watch.json", self.status("stopped"), self.folder)

    def _look(self, now: float) -> None:
        if now < self._next["look"]:
            return
        try:
            if fresh := self.arrivals.look(now):
                self._fresh, self.quiet_since = True, now
                self._appended += fresh
        except OSError as error:
            self.arrivals.problem = f"what is ready cannot be stored: {error.strerror}"
        for space in self.spaces:
            space.look(now)
        if not self.arrivals.problem:
            self.problem_since = None
        elif self.problem_since is None:
            self.problem_since = now
        if self._counted:
            self.pace.look(now, self.arrivals.arrived, self.figures["processed"])
        # at most a tenth of the time, where a look takes long: many files on a slow file server
        self._next["look"] = now + max(self.cfg.look_every_s, 9 * (self._clock() - now))

    def _collect(self, now: float) -> None:
        """See to a process that has ended."""
        child = self.child
        if child is None or (code := child.code()) is None:
            return
        self.child = None
        seconds = now - child.began
        if child.kind == "figures":
            before = self.figures["processed"]
            self._figure()
            self._appended -= self._uncounted
            self._counted = True
            if self.last_cycle and self.figures["processed"] > before:
                self.pace.cycle(self.figures["processed"] - before, self.last_cycle["seconds"])
        elif child.kind == "report":
            self._next["report"] = now + seconds * (1 / _REPORT_SHARE - 1)
        else:
            self._ended(child, code, now)
        if code != 0 and child.kind in ("figures", "report"):
            log.warning("%s failed (exit code %d); see %s", child.kind, code, child.log)

    def _ended(self, child: Child, code: int, now: float) -> None:
        self.last_cycle = {
            "number": self.cycles,
            "kind": child.kind,
            "seconds": round(now - child.began, 1),
            "ended": _now(),
            "code": code,
        }
        if code != 0 and is_held(self.folder):  # somebody was quicker
            self._fresh = True
            return
        if child.kind == "whole":
            self.cadence.unfinished = False
        self._figures_wanted, self._report_wanted = True, True
        self._next["retry"] = float("inf")
        if code == 0:
            self._failures = 0
            for kind in ("start", "live", child.kind):
                self.failed.pop(kind, None)
            log.info("%s run %d done in %.0f s", child.kind, self.cycles, now - child.began)
            return
        rules = self.failed[child.kind] = child.failed_rules() or ["?"]
        shutil.copyfile(child.log, child.log.with_name("failed.log"))
        log.warning("%s run failed (%s); see %s", child.kind, ", ".join(rules), self.failed_log)
        self._next["retry"] = now + min(_BACKOFF_S * 2**self._failures, _LONGEST_BACKOFF_S)
        self._failures = min(self._failures + 1, 10)

    @property
    def failed_log(self) -> Path:
        """What snakemake said when it last failed."""
        return self.folder / FOLDER / "failed.log"

    def _start(self, now: float) -> None:
        if self.child is not None:
            return
        if self._figures_wanted:
            self._figures_wanted, self._uncounted = False, self._appended
            self.child = Child("figures", self._commands.figures, self.folder, now)
        elif self._report_wanted and now >= self._next["report"]:
            self._report_wanted = False
            self.child = Child("report", self._commands.report, self.folder, now)
        elif self.arrivals.ready and not self.arrivals.problem and now >= self._next["cycle"]:
            why = self._whole_due()
            if (why or self._fresh or now >= self._next["retry"]) and self._free(now):
                self._run(why, now)

    def _run(self, why: str, now: float) -> None:
        """Start snakemake: on everything if there is a reason for it, else on what keeps up."""
        self.cycles += 1
        self._next["cycle"] = now + self.cfg.cycle_every_s
        if why:
            log.info("the pooled steps run: %s", why)
            self.cadence = Cadence(self.figures["particles"], time.time(), unfinished=True)
        command = self._commands.whole if why else self._commands.live
        self.child = Child("whole" if why else "live", command, self.folder, now)
        self._fresh = False

    def _whole_due(self) -> str:
        if self.cadence.particles is None and self.figures.get("pooled_particles"):
            self.cadence = Cadence(self.figures["pooled_particles"], time.time())
        quiet = self._clock() - max(self.quiet_since, self.arrivals.last_change or 0.0)
        return self.cadence.due(self.cfg, self.figures["particles"], time.time(), quiet)

    def _free(self, now: float) -> bool:
        """Whether nobody else runs the project; what a killed run left is cleared away."""
        if now < self._next["blocked"]:
            return False
        self.blocked = ""
        if is_held(self.folder):
            self.blocked = f"{holder(self.folder) or 'another snakemake'} runs this project"
        elif snakemake_locks(self.project):
            try:
                unlock_project(self.project, wait_s=1.0)
                log.info("a killed run had left its lock; removed")
            except EmflowError as error:
                self.blocked = str(error)
        if self.blocked:
            self._next["blocked"] = now + min(_BLOCKED_S, self.cfg.look_every_s)
        return not self.blocked

    def _judge(self, now: float) -> None:
        change = self.arrivals.last_change
        facts = Facts(
            quiet_s=now - change if self.arrivals.arrived and change is not None else None,
            problem=self.arrivals.problem,
            problem_s=0.0 if self.problem_since is None else now - self.problem_since,
            figures=self.figures,
            spaces=self.spaces,
            failed=self.failed,
            log=str(self.failed_log),
        )
        for reading in readings(self.cfg, facts):
            self.alarms.judge(reading.alarm, reading.on, reading.off, reading.text, _now())

    def status(self, state: str = "") -> dict[str, Any]:
        """Everything that watch.json says; the state is what it is, unless it is given."""
        waiting = self.arrivals.waiting(self.arrivals.seen)
        rates, behind = self.pace.per_hour(), self._behind()
        child = self.child
        return {
            "project": self.project,
            "state": state or self._state(),
            "updated": _now(),
            "began": self._began,
            "process": os.getpid(),
            "host": platform.node(),
            "source": self.arrivals.source,
            "micrographs": {
                "seen": self.arrivals.seen if self.arrivals.followed else self.figures["processed"],
                "waiting": len(waiting),
                "behind": behind,
                **{name: self.figures[name] for name in ("processed", "accepted", "set_aside")},
                "passed_on": self.arrivals.passed_on,
            },
            "particles": self.figures["particles"],
            "pooled_particles": self.cadence.particles,
            "in_per_hour": None if rates is None else round(rates[0], 1),
            "out_per_hour": None if rates is None else round(rates[1], 1),
            "capacity_per_hour": self.pace.capacity_per_hour,
            "catch_up_s": self.pace.catch_up_s(behind),
            "running": None if child is None else {"what": child.kind, "process": child.pid},
            "runs": self.cycles,
            "last_run": self.last_cycle,
            "failed": self.failed,
            "disks": {s.name: {"free_gb": s.free_gb, "full_in_hours": s.full_in_hours} for s in self.spaces},
            "alarms": self.alarms.stored(),
            "undelivered": self.alarms.undelivered,
            "waiting_files": [{"name": name, "why": why} for name, why in waiting[:_LISTED]],
        }

    def _state(self) -> str:
        if self.child is not None and self.child.kind in ("live", "whole"):
            return "processing"
        if self.blocked:
            return f"waiting: {self.blocked}"
        return f"waiting: {self.arrivals.problem}" if self.arrivals.problem else "watching"

    def _behind(self) -> int:
        """Micrographs that are ready and not processed; those that became ready since they were counted, too."""
        if not self._counted:
            return max(0, self.arrivals.ready - self.figures["processed"])
        return int(self.figures["behind"]) + self._appended

    def _figure(self) -> None:
        self.figures = {**NO_FIGURES, **self._read("figures.json")}
        self.figures.pop("shards", None)  # the count's own memory: long

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.folder / FOLDER / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _keep(self) -> None:
        """Store what the next watcher must know, if it changed."""
        kept = {"alarms": self.alarms.stored(), "pooled": asdict(self.cadence)}
        if kept != self._kept:
            self._store("state.json", kept, self.folder / FOLDER)
            self._kept = kept

    def _store(self, name: str, content: dict[str, Any], folder: Path) -> None:
        try:
            write_text(folder / name, json.dumps(content, indent=1) + "\n")
        except (EmflowError, OSError) as error:  # a full disk must not stop the alarm about it
            log.warning("%s", error)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""Repeat a run from its record and compare every result."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from emflow.project.compare import Difference, differences
from emflow.project.crate_jobs import environment_of
from emflow.project.past_crate import PastCrate
from emflow.project.past_run import Job, PastRun, is_result, read_past_run, sha256_of
from emflow.step import EmflowError

SAME, WITHIN, DIFFERS, MISSING = "same bytes", "within", "differs", "missing"
NEW, LEFT = "new", "left out"
STATES = (SAME, WITHIN, DIFFERS, MISSING, NEW, LEFT)


@dataclass
class Compared:
    """One result: how it compares, what differs, and why it may."""

    name: str
    step: str
    state: str
    found: list[Difference] = field(default_factory=list)
    why: list[str] = field(default_factory=list)


def rules_of(past: PastRun, steps: Sequence[str]) -> list[str]:
    """Return the rules to run until, for some steps: those that no other asked step follows.

    (Snakemake stops behind each rule of ``--until``: one that another needs would keep that from running.)

    Raises
    ------
    EmflowError
        If the run had no such step.
    """
    known = sorted({job.step for job in past.jobs})
    for step in steps:
        if step not in known:
            raise EmflowError(f"--steps {step}: the run had no such step. It had {', '.join(known)}.")
    needed = set().union(*(_needed(past, step) for step in steps))
    return [step.replace(".", "_") for step in steps if step not in needed]


def _needed(past: PastRun, step: str) -> set[str]:
    """Steps whose results a step read, directly or not, without itself."""
    makers = {item["path"]: job.step for job in past.jobs for item in job.record.get("outputs", [])}
    before: dict[str, set[str]] = {}
    for job in past.jobs:
        read = {makers[item["path"]] for item in job.record.get("inputs", []) if item["path"] in makers}
        before.setdefault(job.step, set()).update(read)
    found: set[str] = set()
    left = [step]
    while left:
        fresh = before.get(left.pop(), set()) - found
        found |= fresh
        left += fresh
    return found - {step}


def cores_of(past: PastRun) -> int:
    """Cores for the rerun: threads of the largest job, but not more than this machine has."""
    asked = max((int(job.record.get("threads") or 1) for job in past.jobs), default=1)
    return min(asked, os.cpu_count() or 1)


def compare_runs(crate: PastCrate, again: PastRun) -> list[Compared]:
    """Compare every result of a past run with its counterpart of the rerun."""
    past, makers, makers_again = crate.past, _makers(crate.past), _makers(again)
    causes = _causes_by_job(past, again)
    before = set(past.results()) | {name for name in crate.files if name in makers and is_result(name)}
    compared = []
    for name in sorted(before):
        job = makers.get(name)
        now = again.folder / name
        if job is not None:
            step, why = job.step, causes.get(job.name, [])
        else:  # a list that was copied, or older records, which do not tell what a job wrote
            step = "session.find" if name.startswith("session/shard_") else name.split("/")[0]
            why = list(dict.fromkeys(cause for known in causes.values() for cause in known))
        if now.is_file():
            compared.append(_compare(crate, name, now, Compared(name, step, SAME, why=why)))
        else:
            compared.append(Compared(name, step, MISSING if job is not None and job.name in causes else LEFT))
    fresh = sorted(set(again.results()) - before)
    compared += [
        Compared(name, makers_again[name].step if name in makers_again else "?", NEW) for name in fresh
    ]
    return compared


def _causes_by_job(past: PastRun, again: PastRun) -> dict[str, list[str]]:
    """Why the results of each job that ran again may differ: its own environment, or that of one before it."""
    others = {job.name: job for job in again.jobs}
    causes: dict[str, list[str]] = {}
    so_far: dict[str, None] = {}
    for job in past.jobs:
        if job.name in others:
            so_far |= dict.fromkeys(reasons(job, others[job.name]))
            causes[job.name] = list(so_far)
    return causes


def _compare(crate: PastCrate, name: str, now: Path, result: Compared) -> Compared:
    """Compare bytes, by digest where the record has one; else what the kind of file allows."""
    old, digest = crate.past.folder / name, crate.digest(name)
    here = old.is_file() and (digest is None or sha256_of(old) == digest)
    if not here and digest is None:
        result.state = LEFT
    elif (digest or sha256_of(old)) == sha256_of(now):
        result.state = SAME
    elif not here:
        result.state = DIFFERS
        result.found = [Difference("other bytes; the recorded file is not here to be compared", within=False)]
    else:
        result.found = differences(old, now, crate.past.resolution_angstrom)
        result.state = WITHIN if result.why and all(item.within for item in result.found) else DIFFERS
    return result


def _makers(past: PastRun) -> dict[str, Job]:
    """Result → the job that wrote it last."""
    found: dict[str, Job] = {}
    root = os.path.join("results", past.name) + os.sep
    for job in past.jobs:
        for item in job.record.get("outputs", []):
            path = os.path.relpath(item["path"], past.work) if os.path.isabs(item["path"]) else item["path"]
            if os.path.normpath(path).startswith(root):
                found[os.path.normpath(path).removeprefix(root)] = job
    return found


def reasons(before: Job, now: Job) -> list[str]:
    """Why bytes of two jobs may differ: what of their environment is not the same."""
    old = {**environment_of(before.record), "step_version": before.record.get("step_version")}
    new = {**environment_of(now.record), "step_version": now.record.get("step_version")}
    old["threads"], new["threads"] = before.record.get("threads"), now.record.get("threads")
    found = []
    for key in old:
        if key == "libraries":
            a, b = old[key] or {}, new[key] or {}
            found += [
                f"{name} {a.get(name)} → {b.get(name)}" for name in {**a, **b} if a.get(name) != b.get(name)
            ]
        elif key == "dirty":
            checkouts = [run["dirty"] for run in (old, new) if run["commit"]]
            if any(state is not False for state in checkouts):
                found.append("code edited after its commit, or not known to be as committed")
        elif old[key] != new[key]:
            found.append(f"{key} {old[key]} → {new[key]}")
    return found


def read_again(work: Path, past: PastRun) -> PastRun:
    """Read the rerun's results.

    Raises
    ------
    EmflowError
        If it left none.
    """
    return read_past_run(work / "results" / past.name)


def in_words(compared: list[Compared], crate: PastCrate, again: PastRun) -> Iterator[str]:
    """Say how the results compare: a table by step, then what is not equal."""
    states = [state for state in STATES if state != LEFT]
    steps = [job.step for job in again.jobs] + [row.step for row in compared if row.state != LEFT]
    steps = list(dict.fromkeys(steps))
    width = max(map(len, steps))
    yield f"{'step':{width}}  " + "  ".join(f"{state:>10}" for state in states) + "  CPU-s then     now"
    for step in steps:
        count = Counter(row.state for row in compared if row.step == step)
        costs = [
            sum(j.record.get("cpu_s", 0) for j in run.jobs if j.step == step) for run in (crate.past, again)
        ]
        told = "  ".join(f"{count[state] or '-':>10}" for state in states)
        yield f"{step:{width}}  {told}  {costs[0]:>10.1f}{costs[1]:>8.1f}"
    for state in states[1:]:
        rows = [row for row in compared if row.state == state]
        if rows:
            yield f"\n{_TITLES[state]}:"
        for row in rows:
            yield f"  {row.name} ({row.step})"
            yield from (f"    {'  ' if item.within else '! '}{item.what}" for item in row.found[:6])
        yield from _causes(rows)
    left = sum(row.state == LEFT for row in compared)
    if left:
        yield (
            f"\n{left} results are left out: their steps did not run (--steps, or made on demand then), or the record "
            "has neither their bytes nor their digest (emflow record --digest-images)."
        )


def _causes(rows: list[Compared]) -> Iterator[str]:
    """Say why results may differ: those of one step share the causes."""
    for step in dict.fromkeys(row.step for row in rows if row.state in (WITHIN, DIFFERS)):
        causes = list(dict.fromkeys(cause for row in rows if row.step == step for cause in row.why))
        yield f"  {step} may differ because: {'; '.join(causes)}" if causes else f"  {step}: {_UNEXPLAINED}"


_TITLES = {WITHIN: "Within tolerance", DIFFERS: "Different", MISSING: "Not made again", NEW: "Not made then"}
_UNEXPLAINED = (
    "nothing that is recorded differs (code, libraries, machine, threads): the file was changed after the run, "
    "or the step is not deterministic, which is a fault of emflow"
)


def succeeded(compared: list[Compared]) -> bool:
    """Whether every result that was made again is what it was."""
    return not any(row.state in (DIFFERS, MISSING, NEW) for row in compared) and any(
        row.state in (SAME, WITHIN) for row in compared
    )

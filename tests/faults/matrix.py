"""The fault matrix: every step of the chain under every fault, and what came of it.

    python tests/faults/matrix.py        try all of it, write docs/faults-matrix.json and the table of docs/faults.md

A cell is good if the fault leaves nothing half-written behind, if it ends the step in a way that a person and the
workflow understand, and if the same command afterwards gives the same bytes as without the fault.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mrcfile

sys.path.insert(0, str(Path(__file__).resolve().parent))
from chain import (
    CLOCK,
    KILL,
    MOVE,
    PROJECT,
    RAW,
    REFUSE,
    TERM,
    Answer,
    Stage,
    Step,
    build,
    link,
    own_copy,
)
from chain import state as state_of
from mounts import read_only
from page import DIED, ERROR, LEFT, PAGE, SAID, SAME, STORED, Outcomes, with_table

DAY_S = 86_400
HEAVY_S = 0.5
"""Steps of more CPU time share one folder and one last run among their faults; not those that count deaths."""
READS_RAW = ("session.check", "ctf.fit", "denoise.apply", "pick.apply", "extract.run", "extract.recenter")
FROM_WHAT_THERE_IS = ("report", "simulate.score")
"""Steps whose job is to tell what of a project is there: where a result lacks, they say so and go on."""

ROUNDS = ("no memory",)
"""MKL, refused a buffer, says nothing and multiplies matrices in another order: images may differ by ``ROUNDING``."""
ROUNDING = 1e-5

NOT_TRIED = {"simulate_score": ("over quota", "input read-only", "clock jumps", "no memory")}
"""It works for long before its first write, so that each of these would cost a whole run."""


@dataclass
class Trial:
    """One step in a folder where it can be disturbed."""

    stage: Stage
    step: Step
    work: Path
    random: random.Random
    left_by_kills: set[str] = field(default_factory=set)
    """Temporary files of killed processes; later runs remove those of the files that they write."""

    def run(self, disturb: tuple[int, int, int, str] = (0, 0, 0, "/"), **more: object) -> Answer:
        """Run the step's command."""
        return self.stage.run(self.step.words, self.work, disturb, **more)

    def moment(self, kind: str = "") -> int:
        """A random event of the undisturbed run, of one kind."""
        numbers = [n for n, k in enumerate(self.step.events) if not kind or k == kind]
        return self.random.choice(numbers)

    def check(self, answer: Answer, killed: bool = False, rounded: bool = False) -> None:
        """Nothing half-written stands under a result's name; only a kill leaves temporary files.

        ``rounded``: images may differ in their last digits.
        """
        for name, digest in state_of(self.work).items():
            new = name in self.step.files or not (self.step.before / PROJECT / name).exists()
            if not new:
                continue
            if ".partial" in name or name.endswith(".working"):
                assert killed or name in self.left_by_kills, f"{name} was left behind:\n{answer.said[-2000:]}"
                self.left_by_kills.add(name)
            elif digest and not (rounded and self._rounded(name)):
                assert digest == self.step.files.get(name), f"{name} is half-written or wrong:\n{answer.said}"

    def _rounded(self, name: str) -> bool:
        """Whether a stack of images is the undisturbed run's but for rounding; of unit deviation, as extracted."""
        if not name.endswith(".mrcs"):
            return False
        found, expected = (mrcfile.read(f / PROJECT / name) for f in (self.work, self.step.undisturbed))
        return found.shape == expected.shape and bool(abs(found - expected).max() < ROUNDING)

    def check_same(self, rounded: bool = False) -> None:
        """The same command gives the same bytes, and leaves no other file than the undisturbed run did."""
        answer = self.run()
        assert answer.code == 0, f"not the same again (code {answer.code}):\n{answer.said[-3000:]}"
        whole = state_of(self.work)
        expected = state_of(self.step.before) | self.step.files
        differ = {name for name in whole.keys() | expected.keys() if whole.get(name) != expected.get(name)}
        differ = {name for name in differ if not (rounded and name in whole and self._rounded(name))}
        assert not differ, f"differ from the undisturbed run: {sorted(differ)}"


def _error(answer: Answer, *words: str) -> str:
    """A clear error: code 2, one line that names what it is about, no traceback."""
    assert answer.code == 2, f"code {answer.code}:\n{answer.said[-3000:]}"
    assert "Traceback" not in answer.said, answer.said[-3000:]
    last = answer.said.strip().splitlines()[-1]
    assert last.startswith("emflow: "), answer.said[-2000:]
    assert any(word in last for word in words), f"{last!r} tells none of {words}"
    return ERROR


def killed(trial: Trial) -> Iterator[str]:
    """``kill -9``: amid a write, before the last rename, after a rename, and at work."""
    events = trial.step.events
    moments = [trial.moment("w"), events.rindex("r"), min(trial.moment("r") + 1, len(events) - 1)]
    few = 0 if trial.step.rule in NOT_TRIED else 1 if _heavy(trial.step) else len(moments)
    for moment in moments[:few]:
        answer = trial.run((KILL, moment, 0, "/"))
        assert answer.code in (-signal.SIGKILL, 0), answer.said
        trial.check(answer, killed=True)
        yield DIED
    after = trial.step.wall_s * trial.random.uniform(0.2, 0.7)
    answer = trial.run(signal=int(signal.SIGKILL), after_s=after)
    assert answer.code in (-signal.SIGKILL, 0), answer.said
    trial.check(answer, killed=True)
    yield DIED


def told_to_stop(trial: Trial) -> Iterator[str]:
    """SIGTERM: at a change of a file, and at work."""
    left = False
    for more in ({"disturb": (TERM, trial.moment(), 0, "/")}, {}):
        if not more:
            after = trial.step.wall_s * trial.random.uniform(0.2, 0.7)
            more = {"signal": int(signal.SIGTERM), "after_s": after}
        elif trial.step.rule in NOT_TRIED:  # its only changes are at its end
            continue
        answer = trial.run(**more)
        if answer.code in (0, -signal.SIGTERM):  # it had ended before, or not yet begun
            trial.check(answer)
            continue
        assert answer.code == 128 + signal.SIGTERM, f"code {answer.code}:\n{answer.said[-3000:]}"
        assert "told to stop" in answer.said
        assert "Traceback" not in answer.said, answer.said[-3000:]
        trial.check(answer)
        left = True
    assert left, "the signal came too late to tell"
    yield LEFT


def disk_full(trial: Trial) -> Iterator[str]:
    """ENOSPC from a write on."""
    # where a checkpoint may shorten the work, the first write
    moment = trial.step.events.index("w") if _heavy(trial.step) else trial.moment("w")
    yield _refused(trial, errno.ENOSPC, moment)


def over_quota(trial: Trial) -> Iterator[str]:
    """EDQUOT from the first change on."""
    yield _refused(trial, errno.EDQUOT, 0)


def _refused(trial: Trial, code: int, moment: int) -> str:
    answer = trial.run((REFUSE, moment, code, "/"))
    trial.check(answer)
    return _error(answer, os.strerror(code))


def input_read_only(trial: Trial) -> Iterator[str]:
    """Its input lies on a file system that is mounted read-only."""
    with read_only(_folders_of_inputs(trial)):
        answer = trial.run()
    assert answer.code == 0, answer.said[-3000:]
    trial.check(answer)
    yield SAME


def input_gone(trial: Trial) -> Iterator[str]:
    """Its input is not there any more: before it starts, and while it works."""
    raw = trial.work / RAW / "micrographs"
    gone = raw if trial.step.name in READS_RAW else trial.work / _first(trial)
    for amid in (False, True) if gone == raw else (False,):
        away = gone.with_name(gone.name + ".away")
        if amid:
            answer = trial.run((MOVE, 0, 0, str(gone)))
        else:
            gone.rename(away)
            answer = trial.run()
        if away.exists():
            away.rename(gone)
        if trial.step.name in FROM_WHAT_THERE_IS and answer.code == 0:
            _forget(trial)
            yield SAID
            return
        trial.check(answer)
        _error(
            answer, "mount it again", "no such", "not exist", "does not", "holds no", "expected", "No such"
        )
    yield ERROR


def clock_jumps(trial: Trial) -> Iterator[str]:
    """The clock jumps forward or back by a day while it works, and its input is from tomorrow."""
    for name in trial.step.inputs:
        path = trial.work / name
        if name.startswith(PROJECT) and path.is_file() and path.suffix == ".star":
            status = own_copy(path).stat()
            os.utime(path, (status.st_atime, status.st_mtime + DAY_S))
    answer = trial.run((CLOCK, trial.moment(), trial.random.choice((-DAY_S, DAY_S)), "/"))
    assert answer.code == 0, answer.said[-3000:]
    trial.check(answer)
    yield SAME


def input_cut_short(trial: Trial) -> Iterator[str]:
    """One of its inputs was cut short: a table after a whole row, an image amid its pixels."""
    names = [name for name in trial.step.inputs if name.startswith(PROJECT)]
    stacks = [
        f"{name.rsplit('/', 1)[0]}/shard_00001.mrcs" for name in names if name.endswith("particles.star")
    ]
    names += [name for name in stacks if (trial.work / name).is_file()]
    some = names if len(names) < 5 else trial.random.sample(names, 4)
    endings = set()
    for name in dict.fromkeys(some):
        path = trial.work / name
        kept = trial.work.parent / "kept"
        shutil.copy2(path, kept)
        own_copy(path).write_bytes(_cut(path, trial.random))
        answer = trial.run()
        if answer.code == 0 and trial.step.name in FROM_WHAT_THERE_IS:
            assert _said_of(name, trial, answer), f"{name} is used without a word"
            _forget(trial)
            endings.add(SAID)
        elif answer.code == 0:  # not needed after all, or made again: then nothing may differ
            trial.check(answer)
            endings.add(SAME)
        else:
            trial.check(answer)
            endings.add(_error(answer, path.name, "shard_0000"))
        kept.replace(path)
    yield min(endings, key=(ERROR, SAID, SAME).index)


def no_memory(trial: Trial) -> Iterator[str]:
    """It gets 16 MB more than it starts with."""
    answer = trial.run(more_memory_bytes=16 << 20)
    trial.check(answer, killed=answer.code < 0, rounded=True)
    if answer.code in (0, -signal.SIGABRT, -signal.SIGSEGV):
        yield SAME if answer.code == 0 else DIED
    else:
        yield _error(answer, "more memory")


FAULTS: dict[str, Callable[[Trial], Iterator[str]]] = {
    "kill -9": killed,
    "SIGTERM": told_to_stop,
    "disk full": disk_full,
    "over quota": over_quota,
    "input read-only": input_read_only,
    "input gone": input_gone,
    "clock jumps": clock_jumps,
    "input cut short": input_cut_short,
    "no memory": no_memory,
}


def tried(rule: str) -> list[str]:
    """Faults under which a rule is tried."""
    return [fault for fault in FAULTS if fault not in NOT_TRIED.get(rule, ())]


def try_faults(stage: Stage, step: Step, faults: Sequence[str], seed: int = 1) -> dict[str, str]:
    """Try a step under some faults, each in a folder of its own; those of a heavy step share one folder and last run.

    Raises
    ------
    AssertionError
        If a cell is not good, saying why.
    """
    outcomes: dict[str, str] = {}
    folder = Path(tempfile.mkdtemp(dir=step.before.parent))
    shared = Trial(stage, step, folder / "shared", random.Random(f"{seed} {step.rule}"))
    heavy = _heavy(step)
    try:
        for fault in faults:
            if not heavy or not shared.work.exists():
                link(step.before, shared.work)
            shared.random.seed(f"{seed} {step.rule} {fault}")
            for ending in FAULTS[fault](shared):
                outcomes[fault] = ending
                if not heavy:
                    shared.check_same(rounded=fault in ROUNDS)
                    shutil.rmtree(shared.work)
                    link(step.before, shared.work)
            if not heavy:
                shutil.rmtree(shared.work)
        if heavy:
            shared.check_same()
    except AssertionError as error:
        raise AssertionError(f"{step.rule} under {fault!r}: {error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcomes


def _heavy(step: Step) -> bool:
    return step.cpu_s >= HEAVY_S and step.name not in READS_RAW


def _first(trial: Trial) -> str:
    """The first input that is a file of the project or of the truth."""
    if trial.step.name == "simulate.score":
        return f"{RAW}/truth/facts.json"
    return trial.step.inputs[0]


def _forget(trial: Trial) -> None:
    """Remove what a step made from what there was, so that it is not taken for a result."""
    for name in trial.step.files:
        (trial.work / PROJECT / name).unlink(missing_ok=True)


def _said_of(name: str, trial: Trial, answer: Answer) -> bool:
    """Whether the log or the page says that a file is damaged."""
    page = trial.work / PROJECT / "report" / "index.html"
    text = answer.said + (page.read_text() if page.is_file() else "")
    return name in text and any(words in text for words in ("cut short", "not readable", "cannot be read"))


def _cut(path: Path, draw: random.Random) -> bytes:
    """The first part of a file; of a table, up to the end of a row."""
    content = path.read_bytes()
    if path.suffix != ".star":
        return content[: int(len(content) * 0.6)]
    lines = content.splitlines(keepends=True)
    rows = [
        n
        for n, line in enumerate(lines)
        if line.strip() and not line.startswith((b"_", b"#", b"data_", b"loop_"))
    ]
    return b"".join(lines[: draw.choice(rows) + 1])


def _folders_of_inputs(trial: Trial) -> list[Path]:
    """Folders with inputs into which the step does not write."""
    out = {str(Path(PROJECT, name).parent) for name in trial.step.files}
    folders = {str(Path(name).parent) for name in trial.step.inputs} | {RAW}
    apart = [f for f in sorted(folders) if not any(o == f or o.startswith(f + "/") for o in out)]
    return [trial.work / folder for folder in apart if (trial.work / folder).is_dir()]


def main() -> None:
    """Try everything, or the rules that are named; write the outcomes."""
    outcomes: Outcomes = json.loads(STORED.read_text()) if STORED.exists() else {}
    failed = 0
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder)) as stage:
        steps, _ = build(stage, Path(folder) / "chain")
        outcomes = {rule: outcomes.get(rule, {}) for rule in steps}
        for rule in sys.argv[1:] or steps:
            begun = stage.cpu_s
            try:
                outcomes[rule] = try_faults(stage, steps[rule], tried(rule))
            except AssertionError as error:
                failed += 1
                print(error, flush=True)
            print(f"{rule}: {outcomes[rule]} ({stage.cpu_s - begun:.0f} CPU-s)", flush=True)
            STORED.write_text(json.dumps(outcomes, indent=1) + "\n")
        print(f"{stage.cpu_s:.0f} CPU-s in all, {failed} rules failed")
    PAGE.write_text(with_table(PAGE.read_text(), outcomes, list(FAULTS)))
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()

"""The steps of the workflow as commands, each with the folder as it was just before it: where faults are tried.

The commands are those that Snakemake would run (a dry run prints them), so that a new step of the chain is a new row
of the fault matrix by itself. They are run by stage.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BIN = Path(sys.executable).parent
PROJECT = "results/tiny"
RAW = "results/tiny-input"
NOT_COMPARED = ("records/", "report/index.html")
"""What may differ between equal runs, below the project's folder."""
COUNT, KILL, TERM, REFUSE, CLOCK, MOVE = range(1, 7)
"""What disturb.c can do."""


@dataclass(frozen=True)
class Answer:
    """How a run of a step ended."""

    code: int
    said: str
    cpu_s: float
    wall_s: float
    left_after_s: float | None


@dataclass
class Step:
    """One rule of the workflow, as it ran undisturbed."""

    rule: str
    words: list[str]
    inputs: list[str]
    before: Path
    """Folder as it was just before the step."""
    files: dict[str, str] = field(default_factory=dict)
    """What it left in the project's folder: path → digest; empty for what is not compared."""
    events: str = ""
    """Its changes of files, in order; see disturb.c."""
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def name(self) -> str:
        """Room and verb."""
        return _verb(self.words)

    @property
    def undisturbed(self) -> Path:
        """Folder where the whole chain ran."""
        return self.before.parents[1] / "work"


def _verb(words: list[str]) -> str:
    return words[0] if words[0] == "report" else ".".join(words[:2])


class Stage:
    """The process that runs the steps; a context that ends it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        library = folder / "disturb.so"
        compiler = shutil.which("cc")
        assert compiler, "a C compiler is needed"
        words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "disturb.c"), "-ldl"]
        subprocess.run(words, check=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("EMFLOW_", "SLURM_"))}
        environment |= {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._said = open(folder / "stage.txt", "w")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "stage.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment,
            text=True,
        )
        self._read()
        self.cpu_s = 0.0

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._said.close()

    def run(
        self,
        words: list[str],
        where: Path,
        disturb: tuple[int, int, int, str] = (0, 0, 0, "/"),
        **more: object,
    ) -> Answer:
        """Run a step in a folder. ``disturb``: what, at which event, its detail, and what MOVE moves."""
        what, moment, detail, away = disturb
        log = self._folder / "said.txt"
        asked = {
            "words": words,
            "folder": str(where),
            "log": str(log),
            "disturb": [what, moment, detail, str(where / PROJECT), away],
            **more,
        }
        assert self._process.stdin
        begun = time.monotonic()
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        found = self._read()
        self.cpu_s += found["cpu_s"]
        wall = time.monotonic() - begun
        said = log.read_text(errors="replace")
        return Answer(found["code"], said, found["cpu_s"], wall, found["left_after_s"])

    def _read(self) -> dict:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, (self._folder / "stage.txt").read_text()[-3000:]
        return json.loads(line)


def build(
    stage: Stage, folder: Path, only: frozenset[str] | None = None
) -> tuple[dict[str, Step], list[str]]:
    """Simulate the tiny session and run the chain once, undisturbed.

    Where ``only`` names rules, no other is run. Each verb is taken once: by its first rule, of a rule with a job per
    shard the first shard's.

    Returns
    -------
    A step for each verb that was run, and the verbs of the whole chain; each by the name of its first rule.
    """
    work = folder / "work"
    work.mkdir(parents=True)
    for name in ("Snakefile", "workflow", "profiles", "envs", "slurm", "config"):
        (work / name).symlink_to(ROOT / name)
    config = yaml.safe_load((ROOT / "config" / "tiny.yaml").read_text())
    (work / "run.yaml").write_text(yaml.safe_dump(config))
    halves = [word for half in ("even", "odd") for word in (f"--{half}", f"{RAW}/{half}/{{name}}.mrc")]
    for words in (
        ["simulate", "session", RAW, "--config", "run.yaml"],
        ["session", "find", f"{RAW}/micrographs", f"{PROJECT}/session", *halves, "--config", "run.yaml"],
    ):
        answer = stage.run(words, work)
        assert answer.code == 0, answer.said
    (work / PROJECT / "settings.yaml").write_text("{}\n")  # as a run leaves it
    steps: dict[str, Step] = {}
    listed_jobs = jobs(work)
    first: dict[str, str] = {}
    for rule, words, _ in listed_jobs:
        first.setdefault(_verb(words), rule)
    for rule, words, inputs in listed_jobs:
        if only is not None and rule not in only:
            continue
        taken = (
            rule in first.values()
            and rule not in steps
            and ("shard_00001" in (line := " ".join(words)) or "shard_0" not in line)
        )
        before = folder / "before" / rule
        if taken:
            link(work, before)
        step = Step(rule, words, inputs, before)
        listed = state(work)
        told = folder / "events.txt"
        answer = stage.run(words, work, (COUNT, 0, 0, "/"), events=str(told))
        assert answer.code == 0, f"{rule}: {answer.said}"
        if taken:
            step.files = {name: digest for name, digest in state(work).items() if listed.get(name) != digest}
            step.events, step.wall_s, step.cpu_s = told.read_text(), answer.wall_s, answer.cpu_s
            steps[rule] = step
    return steps, list(first.values())


def jobs(work: Path) -> list[tuple[str, list[str], list[str]]]:
    """Rule, command and inputs of every job of the chain, each after those whose results it reads."""
    words = [
        "snakemake",
        "-n",
        "-p",
        "--profile",
        "profiles/local",
        "all",
        f"{PROJECT}/classify/selected.star",
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EMFLOW_")}
    done = subprocess.run(
        [str(BIN / words[0]), *words[1:], "--configfile", "run.yaml"],
        cwd=work,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = []
    for block in re.split(r"^(?:local)?rule ", done.stdout + done.stderr, flags=re.MULTILINE)[1:]:
        command = re.search(r"^Shell command: emflow (.*)$", block, flags=re.MULTILINE)
        inputs = re.search(r"^    input: (.*)$", block, flags=re.MULTILINE)
        if command and inputs:
            found.append((block.split(":", 1)[0], shlex.split(command[1]), inputs[1].split(", ")))
    assert len(found) > 20, done.stdout[-2000:] + done.stderr[-2000:]
    return found


def state(work: Path) -> dict[str, str]:
    """Every file of the project with the digest of its content; of hidden and of uncompared ones only the name."""
    found = {}
    project = work / PROJECT
    for path in sorted(project.rglob("*")):
        if not path.is_file():
            continue
        name = str(path.relative_to(project))
        hidden = any(part.startswith(".") for part in name.split("/"))
        plain = hidden or name.startswith(NOT_COMPARED)
        found[name] = "" if plain else _digest(path)
    return found


def _digest(path: Path) -> str:
    """Digest of a file; links to the same one are read once."""
    status = path.stat()
    key = status.st_ino, status.st_mtime_ns, status.st_size
    if key not in _digests:
        _digests[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    return _digests[key]


_digests: dict[tuple[int, int, int], str] = {}


def link(source: Path, target: Path) -> None:
    """Copy a folder by hard links: steps replace files and never change them in place, which the tests rely on.

    Hidden files (journals grow in place) are copied.
    """

    def one(path: str, to: str) -> str:
        if Path(path).name.startswith("."):
            return shutil.copy2(path, to)
        os.link(path, to, follow_symlinks=False)
        return to

    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target, symlinks=True, copy_function=one)


def own_copy(path: Path) -> Path:
    """Give a hard-linked file content of its own, so that it can be changed."""
    status = path.stat()
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return path

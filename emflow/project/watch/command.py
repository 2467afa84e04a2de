"""The command: emflow watch."""

from __future__ import annotations

import logging
import os
import platform
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from emflow.config import Settings, load_settings
from emflow.project.lock import claim, holder, release
from emflow.project.start import write_configuration
from emflow.project.watch.channels import Message, channels
from emflow.project.watch.child import project_commands
from emflow.project.watch.ready import FOLDER
from emflow.project.watch.status import line
from emflow.project.watch.watcher import Watcher
from emflow.step import EmflowError

log = logging.getLogger("emflow")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def watch(
    target: str,
    /,
    *snakemake: str,
    profile: str = "profiles/local",
    configfile: Path = Path("emflow.yaml"),
    once: bool = False,
    test_alarm: bool = False,
) -> None:
    """Follow an acquisition: keep results and report up to date, say how far behind, raise alarms.

    Ctrl-C (or SIGTERM) ends it in order; the same command goes on. Settings are in the section `watch`.

    Parameters
    ----------
    target
        Configuration (.yaml), or a folder or glob of micrographs, for which one is written if there is none.
    snakemake
        Further words for snakemake, behind `--`: -- --cores 8
    profile
        Snakemake profile: profiles/local, slurm.
    configfile
        Configuration of a folder.
    once
        End when all that is there has been processed.
    test_alarm
        Only send a test message by each channel that is set, and say what became of it.
    """
    if not target.endswith((".yaml", ".yml")):
        settings = _of_folder(target, configfile)
    else:
        configfile, settings = Path(target), load_settings(target)
    if test_alarm:
        _test_alarm(settings)
        return
    _ready_to_run(settings, configfile)
    folder = Path("results") / settings.project
    commands = project_commands(configfile, folder, profile, snakemake, settings.watch.drop_micrographs)
    with watching(folder):
        watcher = Watcher(settings, commands)
        follow(watcher, once)
    if once and watcher.failed:
        raise EmflowError(f"the last run failed; see {watcher.failed_log}.")


@contextmanager
def watching(folder: Path) -> Iterator[None]:
    """Be the only watcher of a project.

    Raises
    ------
    EmflowError
        If there is another, saying which.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    handle = claim(folder / FOLDER)
    if handle is None:
        raise EmflowError(
            f"{folder}: {holder(folder / FOLDER, 'emflow watch') or 'another emflow watch'} watches this project "
            "already. Stop that one first (Ctrl-C), or leave it to it."
        )
    try:
        yield
    finally:
        release(handle)


def follow(watcher: Watcher, once: bool) -> None:
    """Turn after turn, until a signal comes (or with ``once`` all is done)."""
    signals = 0

    def count(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += number != signal.SIGCHLD

    wakes, wake = os.pipe()
    os.set_blocking(wakes, False)
    os.set_blocking(wake, False)
    heard = [
        number for number in _SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {
        number: signal.signal(number, count) for number in (*heard, signal.SIGCHLD)
    }  # nohup is respected
    written = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        said, when = "", float("-inf")
        while not signals:
            watcher.turn()
            now, text = time.monotonic(), line(watcher.status())
            if text != said and now - when >= (10 if sys.stdout.isatty() else 60):
                _say(text)
                said, when = text, now
            if once and watcher.finished():
                break
            if select.select([wakes], [], [], watcher.cfg.look_every_s)[0]:
                os.read(wakes, 4096)
        if signals:
            log.info("stopping; once more Ctrl-C hurries")
        watcher.stop(lambda: signals)
        _say(line(watcher.status("stopped")))
    finally:
        signal.set_wakeup_fd(written)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(wakes)
        os.close(wake)


def _say(text: str) -> None:
    """Print with the time; names of files need not be UTF-8."""
    print(f"{datetime.now():%H:%M:%S} {text}".encode("utf-8", "replace").decode(), flush=True)


def _of_folder(source: str, configfile: Path) -> Settings:
    """Configuration of a folder of micrographs; written, for the user to fill in, if there is none."""
    if not configfile.exists():
        write_configuration(source, configfile, may_be_empty=True)
        raise EmflowError(
            f"{configfile} was written. Fill in pixel_size_angstrom and diameter_angstrom, then the same command again."
        )
    settings = load_settings(configfile)
    given = settings.input.micrographs or ""
    if not isinstance(given, str) or os.path.abspath(given) != os.path.abspath(source):
        raise EmflowError(
            f"{configfile} is for the micrographs '{given}', not '{source}'. Give the configuration of the latter, "
            "or another name with --configfile."
        )
    return settings


def _ready_to_run(settings: Settings, configfile: Path) -> None:
    """Find out at once what would else stop the first run."""
    if not Path("Snakefile").exists():
        raise EmflowError(f"No Snakefile in {Path.cwd()}: run this where emflow's Snakefile is.")
    source, sample = settings.input.micrographs, settings.sample
    if not source:
        raise EmflowError(f"{configfile}: input.micrographs is not set: give a folder, a glob or a list.")
    if not isinstance(source, str):
        raise EmflowError(
            f"{configfile}: input.micrographs names several sessions; one is watched. Watch it in a project of its own, "
            "and join the others when the acquisition has ended (docs/increments.md)."
        )
    lacking = [
        name
        for name, needed in (
            ("pixel_size_angstrom", not source.endswith(".star")),
            ("diameter_angstrom", True),
        )
        if needed and getattr(sample, name) is None
    ]
    if lacking:
        raise EmflowError(f"{configfile}: fill in sample.{' and sample.'.join(lacking)}.")


def _test_alarm(settings: Settings) -> None:
    found = channels(settings.watch)
    if not found:
        raise EmflowError("no channel is set: set watch.webhook or watch.mail in the configuration.")
    when = datetime.now(UTC).isoformat(timespec="seconds")
    subject = f"emflow {settings.project}: test of alarms"
    message = Message(
        settings.project, "test", "test", subject, "Alarms come this way.", when, platform.node()
    )
    problems = {channel.name: channel.send(message) for channel in found}
    for name, problem in problems.items():
        print(f"{name}: {problem or 'sent'}")
    if any(problems.values()):
        raise EmflowError("a channel does not work; see above.")

"""What is counted for the watcher, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from emflow.io.listing import Listed, stat_file
from emflow.io.star import write_star
from emflow.project.watch.figures import figures
from emflow.project.watch.ready import ReadyList

PROJECT = Path("results/p")


def files(*names: str) -> list[Listed]:
    found = []
    for name in names:
        Path(name).write_bytes(name.encode())
        item = stat_file(name)
        assert item is not None
        found.append(item)
    return found


def quality(items: list[Listed], resolutions: list[str], steps: list[str]) -> None:
    rows = {
        "rlnMicrographName": [item.name for item in items],
        "emflowMicrographId": [item.identity for item in items],
        "rlnCtfMaxResolution": resolutions,
        "emflowPickCount": ["10"] * len(items),
        "emflowAccepted": ["1" if step == "None" else "0" for step in steps],
        "emflowStep": steps,
    }
    write_star(PROJECT / "session" / "quality.star", {"micrographs": pd.DataFrame(rows, dtype=object)})


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_behind_is_what_is_ready_still_there_and_not_done() -> None:
    assert figures(PROJECT, 5)["behind"] == 0
    items = files("a.mrc", "b.mrc", "c.mrc", "d.mrc", "gone.mrc", "changed.mrc")
    ReadyList(PROJECT).append(items)
    os.unlink("gone.mrc")
    Path("changed.mrc").write_bytes(b"another")
    quality(items[:2], ["4.0", "None"], ["None", "session.check"])
    found = figures(PROJECT, 5)
    assert {key: found[key] for key in ("processed", "accepted", "set_aside", "behind")} == {
        "processed": 2, "accepted": 1, "set_aside": 1, "behind": 2,
    }  # fmt: skip
    assert found["ctf"] is None


def test_fits_that_failed_count_and_broken_files_do_not() -> None:
    items = files(*(f"{n}.mrc" for n in range(40)))
    resolutions = ["4.0"] * 20 + ["None"] * 10 + ["4.2"] * 4 + ["None"] * 6
    steps = ["None"] * 20 + ["session.check"] * 10 + ["None"] * 4 + ["session.select"] * 6
    quality(items, resolutions, steps)
    found = figures(PROJECT, 10)
    assert found["ctf"]["earlier"] == 4.0
    assert found["ctf"]["recent"] == 100.0, "six of the last ten that have pixels"
    assert found["picks"]["recent"] == 10


def test_particles_are_counted_again_only_where_a_shard_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, rows in ((1, 3), (2, 4)):
        table = pd.DataFrame({"rlnImageName": ["1@x"] * rows}, dtype=object)
        write_star(PROJECT / "extract" / f"shard_{number:05d}.star", {"particles": table})
    command = [sys.executable, "-m", "emflow.project.watch.figures", str(PROJECT), "30"]
    subprocess.run(command, check=True)
    stored = json.loads((PROJECT / "watch" / "figures.json").read_text())
    assert stored["particles"] == 7
    table = pd.DataFrame({"rlnImageName": ["1@x"] * 6}, dtype=object)
    write_star(PROJECT / "extract" / "shard_00002.star", {"particles": table})
    read = []
    monkeypatch.setattr(
        "emflow.project.watch.figures.count_rows", lambda path, _: read.append(path.name) or 6
    )
    assert figures(PROJECT, 30)["particles"] == 9
    assert read == ["shard_00002.star"]

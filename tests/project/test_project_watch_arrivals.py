"""Which files of a growing folder are taken: by stat and header, whatever the clocks say."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from emflow.config import Input
from emflow.io.mrc import write_mrc
from emflow.io.shards import Shard
from emflow.project.lock import claim
from emflow.project.watch.arrivals import Arrivals
from emflow.project.watch.config import Watch
from emflow.project.watch.ready import ReadyList, ready_files
from emflow.session.command import find_session
from emflow.session.config import SessionFind
from emflow.step import EmflowError

CFG = Watch(settle_s=60, give_up_s=600)


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMFLOW_WATCHED", raising=False)
    Path("raw").mkdir()
    return Path("raw")


def image(path: Path, seed: int = 0) -> bytes:
    """Write a micrograph; return its bytes."""
    write_mrc(path, np.random.default_rng(seed).normal(size=(16, 16)), 1.0)
    return path.read_bytes()


def arrivals(cfg: Watch = CFG, **given: str) -> Arrivals:
    return Arrivals(Input(micrographs="raw", **given), cfg, ReadyList(Path("project")))


def ready() -> list[str]:
    return [Path(item.name).name for item in ReadyList(Path("project")).read()]


def test_a_growing_file_waits_until_it_has_been_still_long_enough(raw: Path) -> None:
    content = image(Path("whole.mrc"))
    watch = arrivals()
    for number, end in enumerate((100, 1100, len(content) - 1, len(content))):
        (raw / "a.mrc").write_bytes(content[:end])
        assert watch.look(50.0 * number) == 0, "each look finds it changed"
    assert watch.look(209.9) == 0, "unchanged for 59.9 s"
    assert watch.waiting(9) == [("raw/a.mrc", "still changing")]
    assert watch.look(210.0) == 1
    assert ready() == ["a.mrc"]
    assert watch.look(1000.0) == 0, "once is enough"


@pytest.mark.parametrize("mtime", [0, 2**33])
def test_no_clock_but_our_own_is_believed(raw: Path, mtime: int) -> None:
    """A file server that lives in 1970 or in 2242 changes nothing; a time that jumps back is a change."""
    image(raw / "a.mrc")
    os.utime(raw / "a.mrc", (mtime, mtime))
    watch = arrivals()
    assert [watch.look(t) for t in (0.0, 30.0)] == [0, 0]
    os.utime(raw / "a.mrc", (mtime - 5, mtime - 5) if mtime else (3, 3))
    assert [watch.look(t) for t in (59.0, 100.0, 119.0)] == [0, 0, 1]


def test_a_file_that_is_still_but_cut_short_waits_and_is_passed_on_in_the_end(raw: Path) -> None:
    content = image(raw / "good.mrc")
    (raw / "cut.mrc").write_bytes(content[:-1])
    tifffile.imwrite(raw / "cut.tif", np.zeros((64, 64), np.uint16))
    (raw / "cut.tif").write_bytes((raw / "cut.tif").read_bytes()[:-10])
    (raw / "empty.mrc").write_bytes(b"")
    watch = arrivals()
    watch.look(0.0)
    assert watch.look(60.0) == 1
    assert ready() == ["good.mrc"]
    assert {name for name, _ in watch.waiting(9)} == {"raw/cut.mrc", "raw/cut.tif", "raw/empty.mrc"}
    assert watch.look(599.0) == 0
    (raw / "cut.mrc").write_bytes(content)  # the transfer goes on after a pause
    assert watch.look(600.0) == 2, "the other two are passed on, to be set aside with a reason"
    assert watch.passed_on == 2
    assert watch.look(659.0) == 0
    assert watch.look(660.0) == 1
    assert watch.passed_on == 2


def test_a_sidecar_and_half_sums_are_waited_for(raw: Path) -> None:
    image(raw / "x_fractions.mrc")
    cfg = CFG.model_copy(update={"sidecar": "{folder}/{name}.xml", "sidecar_without": "_fractions"})
    watch = arrivals(cfg, even="raw/even_{name}.mrc")
    watch.look(0.0)
    assert watch.look(100.0) == 0
    assert watch.waiting(9)[0][1] == "its half sum raw/even_x_fractions.mrc is missing"
    half = image(raw / "even_x_fractions.mrc")
    (raw / "even_x_fractions.mrc").write_bytes(half[:1200])
    (raw / "x.xml").write_text("<half")
    assert watch.look(110.0) == 0
    (raw / "x.xml").write_text("<whole/>")
    assert watch.look(160.0) == 0
    assert watch.look(220.0) == 0, "the half sum is cut short"
    (raw / "even_x_fractions.mrc").write_bytes(half)
    assert [watch.look(t) for t in (230.0, 289.0, 290.0)] == [0, 0, 1]
    assert ready() == ["x_fractions.mrc"], "the half sum itself is no micrograph"
    assert watch.seen == 1


def test_temporary_names_renames_vanishing_and_replacing(raw: Path) -> None:
    content = image(raw / "a.part.mrc")
    image(raw / "b.mrc", 1)
    (raw / "c.mrc.part").write_bytes(content)
    (raw / ".d.mrc.Xy12").write_bytes(content)
    image(raw / "gone.mrc", 2)
    watch = arrivals()
    watch.look(0.0)
    (raw / "gone.mrc").unlink()
    assert watch.look(60.0) == 1
    assert watch.look(6000.0) == 0, "a temporary name is never passed on"
    (raw / "a.part.mrc").rename(raw / "a.mrc")
    assert [watch.look(t) for t in (6010.0, 6070.0)] == [0, 1]
    assert watch.seen == 2
    assert watch.arrived == 1, "the renamed one; what lay there at the start did not arrive"
    image(raw / "b.mrc", 3)
    os.utime(raw / "b.mrc", ns=(5, 5))
    assert [watch.look(t) for t in (7000.0, 7060.0)] == [0, 1], "another version has to settle as well"
    assert ready() == ["b.mrc", "a.mrc", "b.mrc"]


def test_names_that_are_no_text(raw: Path) -> None:
    content = image(Path("whole.mrc"))
    strange = ["caf\udce9.mrc", "tab\there.mrc", "ein Bild.mrc"]
    for name in [*strange, "line\nbreak.mrc"]:
        (raw / name).write_bytes(content)
    watch = arrivals()
    assert [watch.look(t) for t in (0.0, 60.0, 6000.0)] == [0, 3, 0], "a line break would break the list"
    assert sorted(ready()) == sorted(strange)
    assert arrivals().ready == 3


def test_a_folder_that_is_out_of_sight_for_days_loses_nothing(raw: Path) -> None:
    image(raw / "a.mrc")
    watch = arrivals()
    watch.look(0.0)
    assert watch.look(60.0) == 1
    raw.rename("elsewhere")
    assert watch.look(70.0) == 0
    assert "no micrograph now" in watch.problem
    assert watch.seen == 1
    Path("elsewhere").rename("raw")
    assert watch.look(400_000.0) == 0
    assert not watch.problem
    image(raw / "b.mrc", 1)
    assert [watch.look(t) for t in (400_010.0, 400_070.0)] == [0, 1]


def test_a_new_watcher_goes_on_where_a_killed_one_stopped(raw: Path) -> None:
    image(raw / "a.mrc")
    first = arrivals()
    first.look(0.0), first.look(60.0)
    image(raw / "b.mrc", 1)
    with open(ReadyList(Path("project")).path, "ab") as handle:
        handle.write(b"1234\t5678\traw/cut sho")
    second = arrivals()
    assert second.ready == 1, "what was found ready is; the line that a kill cut short is not"
    assert [second.look(t) for t in (0.0, 60.0)] == [0, 1]
    assert ready()[0] == "a.mrc"
    assert ready()[-1] == "b.mrc"


def test_a_run_takes_only_what_is_ready_while_somebody_watches(raw: Path) -> None:
    cfg, project = SessionFind(pixel_size_angstrom=1.0), Path("project")
    image(raw / "a.mrc")
    image(raw / "b.mrc", 1)
    watch = arrivals()
    watch.look(0.0), watch.look(60.0)
    content = image(raw / "c.mrc", 2)
    (raw / "c.mrc").write_bytes(content[:-5])
    assert ready_files(project) is None, "nobody watches"
    handle = claim(project / "watch")
    assert handle is not None

    def names(shards: list[Shard]) -> list[str]:
        return [Path(name).name for shard in shards for name in shard.table["rlnMicrographName"]]

    known = find_session("raw", project / "session", cfg, ready=ready_files(project))
    assert names(known) == ["a.mrc", "b.mrc"]
    (raw / "a.mrc").rename(raw / "moved.mrc")
    (raw / "b.mrc").unlink()
    assert names(find_session("raw", project / "session", cfg, ready=ready_files(project))) == [
        "a.mrc",
        "b.mrc",
    ]
    with pytest.raises(EmflowError, match="no micrograph ready yet"):
        find_session("raw", Path("other"), cfg, ready=set())
    os.close(handle)
    assert ready_files(project) is None
    later = find_session("raw", project / "session", cfg, ready=ready_files(project))
    assert names(later)[2:] == ["c.mrc", "moved.mrc"], (
        "a run after the watch takes all that is there, as ever"
    )


def test_a_table_of_another_program_is_believed_as_it_is(raw: Path) -> None:
    table = Path("micrographs.star")
    table.write_text("data_micrographs\n")
    watch = Arrivals(Input(micrographs=str(table)), CFG, ReadyList(Path("project")))
    watch.look(0.0)
    assert watch.look(60.0) == 1
    table.write_text("data_micrographs\n\n")
    assert [watch.look(t) for t in (70.0, 130.0)] == [0, 1], "it grew: a run is due"

"""Shards only ever grow at the end, and only lists that change are written."""

import os
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emflow.io.shards import Shard
from emflow.io.star import read_star, write_star
from emflow.session.command import find_session
from emflow.session.config import SessionFind
from emflow.session.find import Member, append
from emflow.step import EmflowError

CFG = SessionFind(pixel_size_angstrom=1.5, shard_size=3)


def touch(folder: Path, *names: str, content: bytes = b"x") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(content)


def layout(shards: list[Shard]) -> list[list[str]]:
    return [[Path(name).name for name in shard.table["rlnMicrographName"]] for shard in shards]


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.iterdir())}


@settings(deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(0, 30), max_size=12, unique=True), min_size=1, max_size=5),
    size=st.integers(1, 5),
)
def test_whatever_comes_and_goes_known_entries_stay(batches: list[list[int]], size: int) -> None:
    shards: list[list[Member]] = []
    for batch in batches:
        seen = [Member(f"{n}.mrc", f"id{n}", {"c": str(n)}) for n in batch]
        after = append(shards, seen, size)
        for i, shard in enumerate(shards):
            assert after[i][: len(shard)] == shard
            if len(shard) >= size:
                assert after[i] == shard
        assert all(len(shard) == size for shard in after[:-1])
        known = [member.identity for shard in after for member in shard]
        assert len(known) == len(set(known))
        assert {m.identity for m in seen} <= set(known)
        assert append(after, seen, size) == after
        shards = after


def test_new_files_are_appended_and_full_shards_untouched(tmp_path: Path) -> None:
    touch(tmp_path / "raw", "b.mrc", "d.mrc", "f.mrc", "h.mrc")
    first = find_session(str(tmp_path / "raw"), tmp_path / "s", CFG)
    assert layout(first) == [["b.mrc", "d.mrc", "f.mrc"], ["h.mrc"]]
    assert [shard.changed for shard in first] == [True, True]
    before = state(tmp_path / "s")
    assert not any(shard.changed for shard in find_session(str(tmp_path / "raw"), tmp_path / "s", CFG))
    assert state(tmp_path / "s") == before
    touch(tmp_path / "raw", "a.mrc", "c.mrc", "e.mrc")
    second = find_session(str(tmp_path / "raw"), tmp_path / "s", CFG)
    assert layout(second) == [["b.mrc", "d.mrc", "f.mrc"], ["h.mrc", "a.mrc", "c.mrc"], ["e.mrc"]]
    after = state(tmp_path / "s")
    assert after["shard_00001.star"] == before["shard_00001.star"]
    assert after["shard_00002.star"] != before["shard_00002.star"]


def test_dry_run_computes_and_changes_nothing(tmp_path: Path) -> None:
    touch(tmp_path / "raw", "a.mrc")
    dry = find_session(str(tmp_path / "raw"), tmp_path / "s", CFG, write=False)
    assert layout(dry) == [["a.mrc"]]
    assert not (tmp_path / "s").exists()
    find_session(str(tmp_path / "raw"), tmp_path / "s", CFG)
    before = state(tmp_path / "s")
    touch(tmp_path / "raw", "b.mrc")
    dry = find_session(str(tmp_path / "raw"), tmp_path / "s", CFG, write=False)
    assert [shard.changed for shard in dry] == [True]
    assert state(tmp_path / "s") == before
    wet = find_session(str(tmp_path / "raw"), tmp_path / "s", CFG)
    pd.testing.assert_frame_equal(wet[0].table, dry[0].table)


def test_vanished_files_stay_and_changed_files_are_new_entries(tmp_path: Path) -> None:
    touch(tmp_path / "raw", "a.mrc", "b.mrc", "c.mrc", "d.mrc")
    find_session(str(tmp_path / "raw"), tmp_path / "s", CFG)
    os.remove(tmp_path / "raw" / "a.mrc")
    touch(tmp_path / "raw", "b.mrc", content=b"longer")
    shards = find_session(str(tmp_path / "raw"), tmp_path / "s", CFG)
    assert layout(shards) == [["a.mrc", "b.mrc", "c.mrc"], ["d.mrc", "b.mrc"]]
    assert [shard.changed for shard in shards] == [False, True]
    ids = [i for shard in shards for i in shard.table["emflowMicrographId"]]
    assert len(set(ids)) == 5


def test_moved_folder_keeps_its_entries_and_copies_get_their_own(tmp_path: Path) -> None:
    touch(tmp_path / "raw", "a.mrc", "b.mrc")
    first = find_session(str(tmp_path / "raw"), tmp_path / "s", CFG)
    os.rename(tmp_path / "raw", tmp_path / "moved")
    second = find_session(str(tmp_path / "moved"), tmp_path / "s", CFG)
    assert list(second[0].table["emflowMicrographId"]) == list(first[0].table["emflowMicrographId"])
    assert {Path(n).parent.name for n in second[0].table["rlnMicrographName"]} == {"moved"}
    touch(tmp_path / "more", "a.mrc")
    stat = (tmp_path / "moved" / "a.mrc").stat()
    os.utime(tmp_path / "more" / "a.mrc", ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    third = find_session(str(tmp_path / "mo*" / "*.mrc"), tmp_path / "s", CFG)
    assert layout(third) == [["a.mrc", "b.mrc", "a.mrc"]]
    assert len(set(third[0].table["emflowMicrographId"])) == 3
    assert not any(s.changed for s in find_session(str(tmp_path / "mo*" / "*.mrc"), tmp_path / "s", CFG))


def test_another_shard_size_moves_nobody(tmp_path: Path) -> None:
    touch(tmp_path / "raw", *(f"{i}.mrc" for i in range(4)))
    find_session(str(tmp_path / "raw"), tmp_path / "s", CFG)
    touch(tmp_path / "raw", "8.mrc", "9.mrc")
    wider = SessionFind(pixel_size_angstrom=1.5, shard_size=2)
    assert layout(find_session(str(tmp_path / "raw"), tmp_path / "s", wider)) == [
        ["0.mrc", "1.mrc", "2.mrc"],
        ["3.mrc", "8.mrc"],
        ["9.mrc"],
    ]


def test_empty_folder_keeps_what_is_stored(tmp_path: Path) -> None:
    with pytest.raises(EmflowError, match="holds no MRC or TIFF image"):
        find_session(str(tmp_path / "raw"), tmp_path / "s", CFG)
    touch(tmp_path / "raw", "a.mrc")
    find_session(str(tmp_path / "raw"), tmp_path / "s", CFG)
    os.remove(tmp_path / "raw" / "a.mrc")
    assert layout(find_session(str(tmp_path / "raw"), tmp_path / "s", CFG)) == [["a.mrc"]]
    with pytest.raises(EmflowError, match="input.micrographs is not set"):
        find_session(None, tmp_path / "s", CFG)


def test_optics_and_half_sums_reach_the_stored_lists(tmp_path: Path) -> None:
    touch(tmp_path / "raw", "a.mrc")
    find_session(str(tmp_path / "raw"), tmp_path / "s", CFG)
    other = CFG.model_copy(update={"cs_mm": 0.0})
    shards = find_session(str(tmp_path / "raw"), tmp_path / "s", other, even="even/{name}.mrc")
    assert shards[0].changed
    stored = read_star(tmp_path / "s" / "shard_00001.star")
    assert stored["optics"]["rlnSphericalAberration"][0] == "0.0"
    assert stored["micrographs"]["emflowEvenName"][0] == "even/a.mrc"
    assert stored["micrographs"]["emflowShard"][0] == "1"
    again = find_session(str(tmp_path / "raw"), tmp_path / "s", other, even="even/{name}.mrc")
    assert not again[0].changed


def test_table_with_optics_groups(tmp_path: Path) -> None:
    touch(tmp_path / "raw", "a.mrc", "b.mrc", "c.mrc", "d.mrc")
    optics = pd.DataFrame(
        {"rlnOpticsGroup": ["1", "2"], "rlnMicrographPixelSize": ["1.1", "0.8"]}, dtype=object
    )
    names = [str(tmp_path / "raw" / n) for n in ("d.mrc", "a.mrc", "b.mrc", "c.mrc")]
    table = pd.DataFrame(
        {
            "rlnMicrographName": names,
            "rlnOpticsGroup": ["1", "1", "1", "2"],
            "rlnRandomSubset": ["2", "1", "1", "2"],
        },
        dtype=object,
    )
    write_star(tmp_path / "m.star", {"optics": optics, "micrographs": table})
    shards = find_session(str(tmp_path / "m.star"), tmp_path / "s", SessionFind(shard_size=3))
    assert layout(shards) == [["d.mrc", "a.mrc", "b.mrc"], ["c.mrc"]]
    assert [list(shard.optics["rlnMicrographPixelSize"]) for shard in shards] == [["1.1"], ["0.8"]]
    assert list(shards[0].table["rlnRandomSubset"]) == ["2", "1", "1"]
    write_star(tmp_path / "m.star", {"optics": optics[:1], "micrographs": table.assign(rlnOpticsGroup="3")})
    with pytest.raises(EmflowError, match="does not define the optics group 3"):
        find_session(str(tmp_path / "m.star"), tmp_path / "s2", SessionFind())


def test_damaged_lists_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "raw", "a.mrc", "b.mrc", "c.mrc", "d.mrc")
    find_session(str(tmp_path / "raw"), tmp_path / "s", CFG)
    os.remove(tmp_path / "s" / "shard_00001.star")
    with pytest.raises(EmflowError, match=r"shard_00001\.star: missing, while .*shard_00002\.star exists"):
        find_session(str(tmp_path / "raw"), tmp_path / "s", CFG)

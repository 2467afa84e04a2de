"""Several sessions in one project, and micrographs that have gone to the archive."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from emflow.io.incoming import NothingFoundError
from emflow.io.shards import Shard
from emflow.io.star import write_star
from emflow.session.command import find_session
from emflow.session.config import SessionFind
from emflow.step import EmflowError, Session

CFG = SessionFind(pixel_size_angstrom=1.5, voltage_kv=300, shard_size=3)


def touch(folder: Path, *names: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(str(folder).encode())
    return str(folder)


def groups(shards: list[Shard]) -> list[list[str]]:
    return [list(shard.table["rlnOpticsGroup"]) for shard in shards]


def test_each_session_has_its_optics_and_equal_names_do_not_collide(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "a", "1.mrc", "2.mrc"), touch(tmp_path / "bb", "1.mrc", "2.mrc")
    alone = find_session(first, tmp_path / "s", CFG)
    sessions = [first, Session(path=second, voltage_kv=200, cs_mm=0, even="e/{name}.mrc")]
    both = find_session(sessions, tmp_path / "s", CFG)
    assert groups(both) == [["1", "1", "2"], ["2"]]
    assert list(both[0].table["emflowMicrographId"][:2]) == list(alone[0].table["emflowMicrographId"])
    assert len({i for shard in both for i in shard.table["emflowMicrographId"]}) == 4
    optics = both[0].optics
    assert list(optics["rlnOpticsGroupName"]) == ["opticsGroup1", "opticsGroup2"]
    assert [float(v) for v in optics["rlnVoltage"]] == [300, 200]
    assert [float(v) for v in optics["rlnSphericalAberration"]] == [2.7, 0]
    assert list(both[0].table["emflowEvenName"]) == ["None", "None", "e/1.mrc"]
    assert not any(shard.changed for shard in find_session(sessions, tmp_path / "s", CFG))
    with pytest.raises(EmflowError, match="in optics group 2 and is in 1 now"):
        find_session(sessions[::-1], tmp_path / "s", CFG)


def test_a_table_keeps_its_groups_under_numbers_of_their_own(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "a", "1.mrc"), touch(tmp_path / "b", "2.mrc", "3.mrc")
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": ["1", "2"],
            "rlnOpticsGroupName": ["left", "right"],
            "rlnMicrographPixelSize": ["2", "3"],
            "rlnVoltage": "120",
            "rlnSphericalAberration": "2",
            "rlnAmplitudeContrast": "0.1",
        }
    )
    names = [f"{second}/{n}.mrc" for n in (2, 3)]
    table = pd.DataFrame({"rlnMicrographName": names, "rlnOpticsGroup": ["2", "1"]})
    write_star(tmp_path / "m.star", {"optics": optics, "micrographs": table})
    shards = find_session([first, str(tmp_path / "m.star")], tmp_path / "s", CFG)
    told = dict(zip(shards[0].optics["rlnOpticsGroup"], shards[0].optics["rlnOpticsGroupName"], strict=True))
    assert [told[g] for g in shards[0].table["rlnOpticsGroup"]] == [
        "opticsGroup1",
        "session2_right",
        "session2_left",
    ]


def test_an_empty_session_keeps_what_is_stored(tmp_path: Path) -> None:
    sessions = [touch(tmp_path / "a", "1.mrc"), touch(tmp_path / "b", "2.mrc")]
    find_session(sessions, tmp_path / "s", CFG)
    shutil.rmtree(tmp_path / "a")
    touch(tmp_path / "b", "3.mrc")
    shards = find_session(sessions, tmp_path / "s", CFG)
    assert groups(shards) == [["1", "2", "2"]]
    assert [Path(n).name for n in shards[0].table["rlnMicrographName"]] == ["1.mrc", "2.mrc", "3.mrc"]
    with pytest.raises(NothingFoundError):
        find_session([str(tmp_path / "none")], tmp_path / "t", CFG)


@pytest.mark.parametrize("kind", ["list.txt", "list.star"])
def test_a_list_that_names_vanished_files_makes_no_new_entries(tmp_path: Path, kind: str) -> None:
    touch(tmp_path / "raw", "1.mrc", "2.mrc")
    names = [str(tmp_path / "raw" / f"{n}.mrc") for n in (1, 2)]
    if kind.endswith("txt"):
        (tmp_path / kind).write_text("\n".join(names))
    else:
        write_star(tmp_path / kind, {"micrographs": pd.DataFrame({"rlnMicrographName": names})})
    find_session(str(tmp_path / kind), tmp_path / "s", CFG)
    (tmp_path / "raw" / "1.mrc").unlink()
    shards = find_session(str(tmp_path / kind), tmp_path / "s", CFG)
    assert [len(shard) for shard in shards] == [2]
    assert not shards[0].changed

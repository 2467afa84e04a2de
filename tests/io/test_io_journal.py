"""The journal: what was computed is kept, what was computed otherwise is not."""

from pathlib import Path

import pytest

from emflow.io.atomic import WriteError
from emflow.io.journal import Journal, result_key
from emflow.io.micrographs import Micrographs, for_each, load_micrographs
from emflow.io.mrc import write_mrc
from emflow.session.config import SessionCheck
from emflow.step import EmflowError, OpticsFacts


def test_results_come_back_only_under_their_key(tmp_path: Path) -> None:
    journal = Journal(tmp_path / ".a.journal")
    assert journal.get("m1", "k1") is None
    journal.put("m1", "k1", {"x": 1})
    journal.put("m2", "k1", "é")
    journal.put("m1", "k2", {"x": 2})
    again = Journal(tmp_path / ".a.journal")
    assert again.get("m1", "k1") is None
    assert again.get("m1", "k2") == {"x": 2}
    assert again.get("m2", "k1") == "é"


@pytest.mark.parametrize("cut", range(1, 39))
def test_line_cut_short_by_a_kill_is_ignored(tmp_path: Path, cut: int) -> None:
    path = tmp_path / ".a.journal"
    journal = Journal(path)
    journal.put("m1", "k", 1)
    journal.put("m2", "k", 2)
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(path)
    assert again.get("m1", "k") == 1
    again.put("m3", "k", 3)
    last = Journal(path)
    assert (last.get("m1", "k"), last.get("m3", "k")) == (1, 3)


def test_rubbish_in_the_journal_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / ".a.journal"
    Journal(path).put("m1", "k", 1)
    path.write_bytes(b"\xff\xfe\0\0\n5\n[]\n{}\nnull\n" + path.read_bytes())
    assert Journal(path).get("m1", "k") == 1


def test_key_depends_on_settings_step_and_input() -> None:
    base = result_key(SessionCheck(), "id")
    assert base == result_key(SessionCheck(), "id")
    assert base != result_key(SessionCheck(max_blank_fraction=0.5), "id")
    assert base != result_key(SessionCheck(), "other")
    assert base != result_key(OpticsFacts(), "id")


def micrographs(folder: Path) -> Micrographs:
    for name in "abc":
        write_mrc(folder / f"{name}.mrc", [[1.0, 2.0], [3.0, 4.0]], 1.0)
    return load_micrographs(folder, OpticsFacts(pixel_size_angstrom=1.0))


def test_each_micrograph_is_computed_once_and_errors_are_tried_again(tmp_path: Path) -> None:
    images, calls = micrographs(tmp_path), []

    def work(row: int) -> dict[str, int]:
        calls.append(row)
        if row == 1:
            raise EmflowError("no permission")
        return {"row": row}

    journal = tmp_path / ".j.journal"
    results, aside = for_each(images, work, Journal(journal), lambda row: "k")
    assert list(results) == [0, 2]
    assert list(aside["emflowReason"]) == ["no permission"]
    for_each(images, work, Journal(journal), lambda row: "k")
    assert calls == [0, 1, 2, 1]
    for_each(images, work, Journal(journal), lambda row: "k2" if row == 2 else "k")
    assert calls == [0, 1, 2, 1, 1, 2]


def test_full_disk_sets_no_micrograph_aside(tmp_path: Path) -> None:
    def work(_: int) -> dict[str, int]:
        raise WriteError("disk full")

    with pytest.raises(WriteError):
        for_each(micrographs(tmp_path), work, Journal(tmp_path / ".j.journal"), lambda row: "k")

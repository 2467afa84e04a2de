"""Images that were removed once their reader was done with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from emflow.denoise.outputs import ImageJournal
from emflow.io.examples import choose
from emflow.io.freed import beside, free_images, freed, want_again
from emflow.io.mrc import write_mrc


def _images(folder: Path, *names: str) -> dict[str, Path]:
    paths = {name: folder / f"{name}.mrc" for name in names}
    for path in paths.values():
        path.write_bytes(b"pixels")
    return paths


def test_a_reader_does_not_need_again_what_it_removed_and_another_does(tmp_path):
    table = tmp_path / "shard_00001.star"
    images = _images(tmp_path, "a", "b")
    free_images(table, images, "reader")
    assert not any(path.exists() for path in images.values())
    assert freed(table, "reader") == {"a", "b"}
    assert freed(table, "other") == set()
    assert freed(table, "") == set(), "nobody reads them"
    free_images(table, _images(tmp_path, "c"), "reader")
    assert freed(table, "reader") == {"a", "b", "c"}, "a grown shard"
    free_images(table, _images(tmp_path, "a"), "other")
    assert freed(table, "other") == {"a"}, "b was made for another reader"
    assert freed(table, "reader") == set()
    want_again(table)
    assert freed(table, "other") == set()
    want_again(table)


def test_a_damaged_note_frees_nothing(tmp_path):
    (tmp_path / ".t.freed").write_text('{"reader": "r", "ids"')
    assert freed(tmp_path / "t.star", "r") == set()


def test_a_result_counts_while_its_image_is_there_or_was_freed(tmp_path):
    write_mrc(tmp_path / "a.mrc", np.zeros((4, 4), dtype=np.float32), 6.0)
    journal = ImageJournal(tmp_path / "journal", tmp_path, {"b"})
    for name in "abc":
        journal.put(name, "key", {"kept": "1"})
    assert [journal.get(name, "key") is not None for name in "abc"] == [True, True, False]
    assert journal.get("b", "another key") is None, "freed, but of other settings"


def test_examples_show_the_range_of_a_session():
    table = pd.DataFrame(
        {
            "rlnCtfMaxResolution": ["4", "9", "3", "None", "5"],
            "emflowPickCount": ["10", "20", "30", "90", "0"],
        }
    )
    assert choose(table, 3) == [(2, "best CTF fit"), (4, "median CTF fit"), (1, "worst CTF fit")]
    assert (3, "many picks") in choose(table, 6)
    assert len(choose(table, 9)) == 5
    assert choose(table.iloc[:0], 6) == []


def test_what_a_sampler_writes_goes_with_its_image(tmp_path):
    images = {"a": tmp_path / "images" / "a.mrc"}
    paths = [images["a"], *beside(images["a"])]
    for path in (*paths, tmp_path / "samples" / "b.mrc"):
        write_mrc(path, np.zeros((4, 4), dtype=np.float32), 6.0)
    journal = ImageJournal(tmp_path / "journal", tmp_path / "images", sampled=True)
    journal.put("a", "key", {"kept": "1"})
    assert journal.get("a", "key") is not None
    paths[1].unlink()
    assert journal.get("a", "key") is None, "its deviation is gone"
    free_images(tmp_path / "t.star", images, "reader")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.mrc")] == ["samples/b.mrc"]

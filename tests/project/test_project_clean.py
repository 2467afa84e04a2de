"""What clean finds in a made-up project, and what it leaves alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from emflow.config import load_settings
from emflow.io.freed import freed
from emflow.io.star import write_star
from emflow.project.chain import Chain
from emflow.project.clean import Waste, find_waste, remove
from emflow.step import EmflowError


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with three denoised images in two shards, of which one has been picked."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results" / "p"

    def make(**settings: object) -> Path:
        (folder / "denoise" / "images").mkdir(parents=True)
        (folder / "pick").mkdir()
        (folder / "settings.yaml").write_text(json.dumps({"project": "p", **settings}))
        for shard, ids in (("shard_00001", "ab"), ("shard_00002", "c")):
            table = pd.DataFrame({"emflowMicrographId": list(ids)}, dtype=object)
            write_star(folder / "denoise" / f"{shard}.star", {"micrographs": table})
            for identity in ids:
                (folder / "denoise" / "images" / f"{identity}.mrc").write_bytes(bytes(5000))
        (folder / "pick" / "shard_00001.star").write_text("data_particles\n")
        return folder

    return make


def _left(folder: Path) -> str:
    return "".join(sorted(path.stem for path in (folder / "denoise" / "images").iterdir()))


def test_denoised_images_go_once_picked_and_are_noted_for_their_reader(project):
    folder = project(pick={"apply": {"pixels": "denoised"}})
    (waste,) = find_waste("p")
    assert waste.name == "denoised"
    size = waste.freed_bytes
    assert remove("p", [waste]) == size > 0
    assert _left(folder) == "c", "its shard has not been picked"
    reader = Chain(load_settings(folder / "settings.yaml"), {}).reader
    assert freed(folder / "denoise" / "shard_00001.star", reader) == {"a", "b"}
    assert freed(folder / "denoise" / "shard_00002.star", reader) == set()


def test_where_nothing_reads_them_all_go_and_a_simulated_session_keeps_them(project):
    folder = project()
    remove("p", find_waste("p"))
    assert _left(folder) == ""
    assert not list((folder / "denoise").glob(".*.freed"))


def test_a_simulated_session_keeps_what_is_scored(project):
    folder = project(input={"truth": "truth"})
    assert find_waste("p") == []
    assert _left(folder) == "abc"


def test_shared_files_are_counted_apart_and_links_lead_nowhere(project, tmp_path):
    folder = project()
    images = folder / "denoise" / "images"
    os.link(images / "a.mrc", tmp_path / "branch.mrc")
    (waste,) = find_waste("p")
    assert waste.shared_bytes * 2 == waste.freed_bytes
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "d.mrc").write_bytes(b"mine")
    images.rename(tmp_path / "moved")
    images.symlink_to(outside)
    with pytest.raises(EmflowError, match="outside"):
        remove("p", find_waste("p"))
    with pytest.raises(EmflowError, match="outside"):
        remove("p", [Waste("leftovers", [outside / "d.mrc"], "")])
    assert (outside / "d.mrc").exists()


def test_checkpoints_of_finished_steps_and_leftovers_are_found(project):
    folder = project(input={"truth": "truth"})
    for step in ("refine", "abinitio"):
        (folder / "reconstruct" / step / ".checkpoint").mkdir(parents=True)
        (folder / "reconstruct" / step / ".checkpoint" / "state.safetensors").write_bytes(b"state")
    (folder / "reconstruct" / "abinitio" / "metrics.json").write_text("{}")
    (folder / "pick" / ".shard_00001.123.partial.star").write_text("half")
    (folder / "reconstruct" / "refine" / ".checkpoint" / "particles.store").write_bytes(b"copy")
    found = {waste.name: [path.name for path in waste.paths] for waste in find_waste("p")}
    assert found["checkpoints"] == ["state.safetensors"], "that of the interrupted refinement stays"
    assert sorted(found["leftovers"]) == [".shard_00001.123.partial.star", "particles.store"]

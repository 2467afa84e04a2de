"""The record of a small made-up run: names of all kinds, links between entities, folders for a rerun."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml

from emflow.config import load_settings
from emflow.io.listing import stat_file
from emflow.io.micrographs import optics_table
from emflow.io.record import Record
from emflow.io.star import write_star
from emflow.project.command_record import record, reproduce
from emflow.project.crate import build_crate
from emflow.project.past_crate import open_record
from emflow.project.past_run import read_past_run
from emflow.project.reproduce import DIFFERS, MISSING, NEW, SAME, WITHIN, compare_runs, reasons, rules_of
from emflow.project.rerun import prepare
from emflow.session.config import SessionFind
from emflow.session.inputs import find_session
from emflow.step import EmflowError, Run, StepConfig

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["plain.mrc", "a b#1?.mrc", "50%_µg.mrc", os.fsdecode(b"latin-\xe9.mrc")]


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A working folder with a project of two steps over four micrographs that lie beside it."""
    folder = tmp_path / "here" / "work"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    data = tmp_path / "here" / "my data"
    data.mkdir()
    for name in NAMES:
        (data / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    (folder / "Snakefile").symlink_to(ROOT / "Snakefile")
    (folder / "workflow").symlink_to(ROOT / "workflow")
    settings = load_settings(
        {"project": "p", "input": "../my data", "sample": {"pixel_size_angstrom": 1.0}, "ctf": {"fit": {}}}
    )
    results = Path("results/p")
    results.mkdir(parents=True)
    (results / "settings.yaml").write_text(yaml.safe_dump(settings.as_mapping(), allow_unicode=True))
    stats = [(data / name).stat() for name in NAMES]
    table = pd.DataFrame(
        {
            "rlnMicrographName": [f"../my data/{name}" for name in NAMES],
            "rlnOpticsGroup": "1",
            "emflowMicrographId": [stat_file(str(data / name)).identity for name in NAMES],
            "emflowShard": "1",
            "emflowSize": [str(stat.st_size) for stat in stats],
            "emflowMtimeNs": [str(stat.st_mtime_ns) for stat in stats],
        },
        dtype=object,
    )
    write_star(
        "results/p/session/shard_00001.star",
        {"optics": optics_table(SessionFind(pixel_size_angstrom=1.0)), "micrographs": table},
    )
    _job("session.check", "results/p/session/shard_00001.star", "results/p/session/check/shard_00001.star")
    _job("ctf.fit", "results/p/session/check/shard_00001.star", "results/p/ctf/shard_00001.star")
    return folder


def _job(step: str, source: str, out: str) -> None:
    run = Run(record=Path(f"results/p/records/{step}/shard_00001.json"))
    with Record(step, StepConfig(), run, inputs=[source]) as job:
        write_star(
            out,
            {"t": pd.DataFrame({"emflowMicrographId": list("abcd"), "rlnDefocusU": [1e4, 2e4, 1.5e4, 1e4]})},
        )
        write_star(Path(out).with_name(".hidden.star"), {"t": pd.DataFrame({"a": ["1"]})})
        if step == "ctf.fit":
            job.notes = {"weights": "ab" * 32}


def _graph(path: Path = Path("results/p/ro-crate-metadata.json")) -> dict[str, dict]:
    return {entity["@id"]: entity for entity in json.loads(path.read_text())["@graph"]}


def _ids(value) -> list[str]:
    return [item["@id"] for item in (value if isinstance(value, list) else [value])]


def test_names_of_data_are_encoded_and_every_reference_has_its_entity(work):
    record(Path("results/p"))
    graph = _graph()
    there = {name.rsplit("/", 1)[1] for name in graph if "my%20data" in name}
    assert there == {"plain.mrc", "a%20b%231%3F.mrc", "50%25_%C2%B5g.mrc", "latin-%E9.mrc"}
    text = json.dumps(list(graph.values()))
    referred = {part.split('"')[0] for part in text.split('{"@id": "')[1:]}
    known = set(graph) | {uri for uri in referred if uri.startswith(("https://w3id.org/ro/crate", "http"))}
    assert referred <= known


def test_a_result_links_the_job_that_made_it_to_the_job_that_read_it(work):
    record(Path("results/p"))
    graph = _graph()
    check, fit = graph["#job/session.check/shard_00001"], graph["#job/ctf.fit/shard_00001"]
    assert _ids(check["result"]) == ["session/check/shard_00001.star"]
    assert "session/check/shard_00001.star" in _ids(fit["object"])
    weights = next(name for name in _ids(fit["object"]) if name.startswith("#weights"))
    assert graph[weights]["sha256"] == "ab" * 32
    assert len(graph["ctf/shard_00001.star"]["sha256"]) == 64
    assert graph["#step/ctf.fit"]["position"] == "2"
    micrograph = next(entity for name, entity in graph.items() if name.endswith("plain.mrc"))
    assert micrograph["contentSize"] == "9"
    assert "sha256" not in micrograph
    assert not any(".hidden" in name for name in graph)


def test_micrographs_are_digested_when_asked(work):
    record(Path("results/p"), digest_images=True)
    assert all("sha256" in entity for name, entity in _graph().items() if "my%20data" in name)


def test_the_zip_holds_the_record_and_no_data(work):
    record(Path("results/p"), zip=Path("r.zip"))
    with zipfile.ZipFile("r.zip") as archive:
        names = set(archive.namelist())
        graph = {e["@id"]: e for e in json.loads(archive.read("ro-crate-metadata.json"))["@graph"]}
    assert {"settings.yaml", "records/ctf.fit/shard_00001.json", "records/workflow/Snakefile"} <= names
    assert [name for name in names if name.endswith((".star", ".mrc"))] == ["session/shard_00001.star"]
    files = {name for name, e in graph.items() if "File" in e["@type"] and not name.startswith("file://")}
    assert files <= names, "what the zip lacks is named by its address"
    crate = open_record(Path("r.zip"))
    assert crate.past.work == work
    assert crate.digest("ctf/shard_00001.star") == _graph()["ctf/shard_00001.star"]["sha256"]


def test_a_project_without_records_and_a_damaged_record_are_named(work):
    path = Path("results/p/records/ctf.fit/shard_00001.json")
    path.write_text("{}")
    with pytest.raises(EmflowError, match=r"ctf.fit/shard_00001.json: .*lacks settings, started, step"):
        record(Path("results/p"))
    with pytest.raises(EmflowError, match="settings.yaml"):
        record(Path("results/none"))
    settings = Path("results/p/settings.yaml")
    settings.write_text(settings.read_text().replace("project: p", "project: ../../elsewhere"))
    with pytest.raises(EmflowError, match=r"project is '../../elsewhere'"):
        reproduce(Path("results/p"))


def test_inputs_that_changed_are_named_before_anything_runs(work):
    record(Path("results/p"))
    (work.parent / "my data" / "plain.mrc").write_bytes(b"other")
    (work.parent / "my data" / NAMES[1]).unlink()
    with pytest.raises(EmflowError) as stop:
        reproduce(Path("results/p"))
    assert "plain.mrc: has 5 bytes, 9 then" in str(stop.value)
    assert "a b#1?.mrc: is not there" in str(stop.value)
    assert not Path("reproduced-p").exists()


def test_a_rerun_sees_the_recorded_micrographs_only_under_the_same_names(work, monkeypatch):
    (work.parent / "my data" / "later.mrc").write_bytes(b"new")
    past = read_past_run(Path("results/p"))
    again = prepare(past, work / "again", Path("Snakefile"))
    settings = yaml.safe_load((again / "run.yaml").read_text())
    assert settings["input"]["micrographs"] == "micrographs.star"
    monkeypatch.chdir(again)
    before = Path("results/p/session/shard_00001.star").read_bytes()
    (shard,) = find_session(
        "micrographs.star", Path("results/p/session"), SessionFind(pixel_size_angstrom=1.0)
    )
    assert list(shard.table["rlnMicrographName"]) == [f"../my data/{name}" for name in NAMES]
    assert not shard.changed
    assert Path("results/p/session/shard_00001.star").read_bytes() == before
    assert all(Path(name).read_bytes() for name in shard.table["rlnMicrographName"])
    monkeypatch.chdir(work)
    assert (again / "Snakefile").exists()
    own = again / "results" / "p"
    assert own.is_dir()
    assert not own.is_symlink(), "the rerun never writes into what it repeats"
    assert sorted(path.name for path in own.iterdir()) == ["session"]
    with pytest.raises(EmflowError, match="not empty"):
        prepare(past, work / "again", Path("Snakefile"))


def test_steps_are_known_and_stop_behind_the_last_of_them(work):
    past = read_past_run(Path("results/p"))
    assert rules_of(past, ["session.check", "ctf.fit"]) == ["ctf_fit"]
    assert rules_of(past, []) == []
    with pytest.raises(EmflowError, match="ctf.import: the run had no such step"):
        rules_of(past, ["ctf.import"])


def test_equal_environments_ask_for_equal_bytes_and_others_name_what_differs(work):
    past = read_past_run(Path("results/p"))
    job = past.jobs[0]
    clean = {**job.record, "commit": "c", "dirty": False, "threads": 1}
    before = type(job)(job.name, clean)
    assert reasons(before, before) == []
    other = {**clean, "threads": 2, "gpu": "H200", "libraries": {**clean["libraries"], "torch": "2.14"}}
    said = reasons(before, type(job)(job.name, other))
    assert f"torch {clean['libraries']['torch']} → 2.14" in said
    assert "gpu None → H200" in said
    assert "threads 1 → 2" in said


def test_a_changed_result_is_named_and_judged(work):
    record(Path("results/p"))
    crate = open_record(Path("results/p"))
    assert {row.state for row in compare_runs(crate, crate.past)} == {SAME}
    path = Path("results/p/ctf/shard_00001.star")
    path.write_text(path.read_text().replace("20000", "20001"))
    assert crate.tampered() == ["ctf/shard_00001.star"]


def test_what_may_differ_is_judged_by_tolerance_what_may_not_by_bytes(work, tmp_path):
    record(Path("results/p"))
    crate = open_record(Path("results/p"))
    shutil.copytree("results/p", tmp_path / "again" / "results" / "p")
    again = tmp_path / "again" / "results" / "p"
    path = again / "ctf" / "shard_00001.star"
    path.write_text(path.read_text().replace("20000", "20001"))
    (again / "session" / "check" / "shard_00001.star").unlink()
    (again / "ctf" / "more.star").write_text("data_a\n\n_b 1\n")

    def states(**changes):
        for name in ("session.check", "ctf.fit"):
            file = again / "records" / name / "shard_00001.json"
            content = {**json.loads(file.read_text()), "commit": None, "dirty": None}
            file.write_text(json.dumps({**content, **(changes if name == "session.check" else {})}))
        for job in crate.past.jobs:
            job.record.update(commit=None, dirty=None)
        return {row.name: row for row in compare_runs(crate, read_past_run(again))}

    strict = states()
    assert strict["ctf/shard_00001.star"].state == DIFFERS
    assert strict["ctf/shard_00001.star"].why == []
    assert strict["session/check/shard_00001.star"].state == MISSING
    assert strict["ctf/more.star"].state == NEW
    loose = states(threads=2)["ctf/shard_00001.star"]
    assert loose.state == WITHIN
    assert loose.why == ["threads 0 → 2"], "of the step before it"
    (crate.past.folder / "ctf" / "shard_00001.star").unlink()
    assert states(threads=2)["ctf/shard_00001.star"].state == DIFFERS, "digests alone tell no tolerance"


def test_the_crate_is_the_same_for_the_same_run(work):
    past = read_past_run(Path("results/p"))
    first, second = ([e for e in build_crate(past)["@graph"] if e["@id"] != "./"] for _ in range(2))
    assert first == second, "but for the time of the record itself"


def test_a_project_that_was_moved_is_found_where_it_is_now(work, monkeypatch):
    work.rename(work.with_name("moved"))
    monkeypatch.chdir(work.with_name("moved"))
    record(Path("results/p"))
    crate = open_record(Path("results/p"))
    assert crate.past.work == work.with_name("moved")
    assert crate.gone_or_changed() == []
    assert "session/check/shard_00001.star" in _ids(_graph()["#job/ctf.fit/shard_00001"]["object"])

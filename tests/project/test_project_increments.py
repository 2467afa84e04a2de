"""New data costs its own work: what a run does with more micrographs, a newer emflow, vanished inputs, sessions merged.

One file, since these tests share one finished run; most only plan.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import read_star

PER_SHARD = (
    "session_check", "ctf_fit", "denoise_apply", "pick_apply", "pick_compared", "session_select", "extract_run",
    "extract_recenter",
)  # fmt: skip
JOINED = ("session_join", "extract_join_recentered", "simulate_score", "report")
FIRST_MAP = ("extract_join", "reconstruct_abinitio")
"""While the first map is frozen, nothing reads the pooled binned particles."""
REFINED = (
    "reconstruct_refine", "validate_maps", "validate_local", "validate_particles", "heterogeneity_fit",
    "heterogeneity_analyze", "validate_states",
)  # fmt: skip


def add_micrographs(workspace, *numbers: int) -> None:
    folder = workspace.folder / "results" / "tiny-input"
    for kind in ("micrographs", "even", "odd"):
        data = read_mrc(folder / kind / "sim_00001.mrc")
        for number in numbers:
            write_mrc(folder / kind / f"sim_{number:05d}.mrc", data[::-1, ::-1].copy() + number, 4.0)


@pytest.fixture
def copy(tiny, tmp_path):
    return tiny.copy(tmp_path / "work")


@pytest.mark.parametrize(
    ("added", "choice", "shards", "pooled"),
    [
        ((5,), {}, {}, REFINED),
        (
            (5, 6, 7, 8, 9),
            {},
            dict.fromkeys(PER_SHARD, 2),
            REFINED,
        ),  # one fills the last shard, the others make one
        ((5,), {"abinitio": "refresh"}, {"extract_recenter": 2}, (*FIRST_MAP, *REFINED)),
        ((5,), {"heterogeneity": "frozen"}, {}, (*REFINED[:4], "validate_states")),
        ((5,), {"refine": "frozen"}, {}, ()),
    ],
)
def test_new_micrographs_rerun_their_shards_and_what_is_refreshed(copy, added, choice, shards, pooled):
    add_micrographs(copy, *added)
    expected = {**dict.fromkeys(PER_SHARD, 1), **shards, **dict.fromkeys((*JOINED, *pooled), 1)}
    assert copy.jobs("--config", f"increments={json.dumps(choice)}") == expected


def test_frozen_stages_follow_a_changed_setting_before_them(tiny):
    frozen = "increments={refine: frozen, heterogeneity: frozen, abinitio: frozen}"
    assert tiny.jobs("--config", frozen) == {}, "the choice itself reruns nothing"
    jobs = tiny.jobs("--config", frozen, "reconstruct={refine: {seed: 1}}")
    assert jobs.keys() == {*REFINED, "simulate_score", "report"}


def test_a_first_map_in_which_nothing_was_found_is_not_kept(copy):
    path = copy.results / "reconstruct" / "abinitio" / "metrics.json"
    time = path.stat().st_mtime_ns
    path.write_text(json.dumps({**json.loads(path.read_text()), "resolution_angstrom": None}))
    os.utime(path, ns=(time, time))
    add_micrographs(copy, 5)
    assert copy.jobs()["reconstruct_abinitio"] == 1


def test_a_restart_is_one_command(copy):
    said = copy.call("emflow", "restart", "tiny", "map", code=2)
    assert "map: give one or more of classify, abinitio, refine, heterogeneity" in said
    copy.call("emflow", "restart", "tiny", "heterogeneity")
    followers = {"heterogeneity_analyze", "validate_states", "simulate_score", "report"}
    assert copy.jobs().keys() == {"heterogeneity_fit", *followers}
    assert "a restart was asked for" in copy.call("emflow", "plan", "run.yaml")
    copy.call("emflow", "restart", "tiny", "abinitio")
    assert copy.jobs()["reconstruct_abinitio"] == 1, "frozen no longer"


def newer_ctf(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on an emflow is installed whose CTF fit has another version."""
    folder.mkdir()
    lines = ["from emflow.ctf.config import CtfFit", "CtfFit.version += 1", ""]
    (folder / "newer_ctf.py").write_text("\n".join(lines))
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("ALSO_IMPORTED", "newer_ctf")


def test_a_newer_version_of_a_step_reruns_nothing_unasked(copy, tmp_path, monkeypatch):
    newer_ctf(tmp_path / "newer", monkeypatch)
    assert copy.jobs() == {}
    said = copy.call("emflow", "plan", "run.yaml")
    assert "does ctf.fit (version 1 → 2) differently" in said
    assert "emflow upgrade tiny" in said
    # a shard that grows does not make again what it has
    add_micrographs(copy, 5)
    journal = copy.results / "ctf" / ".shard_00002.journal"
    before = journal.read_text().splitlines()
    assert "differently" in copy.call(*copy.snakemake("--until", "ctf_fit"))
    assert journal.read_text().splitlines()[: len(before)] == before
    assert len(journal.read_text().splitlines()) == len(before) + 1
    assert "no such step" in copy.call("emflow", "upgrade", "tiny", "ctf.fitt", code=2)
    assert "Upgraded: ctf.fit." in copy.call("emflow", "upgrade", "tiny")
    assert "Every step has the version" in copy.call("emflow", "upgrade", "tiny", "ctf.fit")
    jobs = copy.jobs()
    assert jobs["ctf_fit"] == 2
    assert jobs["reconstruct_abinitio"] == 1, "what is frozen was made of the old version's results"
    said = copy.call("emflow", "plan", "run.yaml")
    assert "step version 1 → 2" in said
    assert "emflow upgrade" not in said


def test_micrographs_that_were_archived_keep_their_particles(copy):
    raw = copy.folder / "results" / "tiny-input" / "micrographs"
    old = {
        room: read_star(copy.results / room / "shard_00002.star")["particles"] for room in ("extract", "pick")
    }
    stack = (copy.results / "extract" / "shard_00002.mrcs").read_bytes()
    add_micrographs(copy, 5)
    for number in (1, 2, 3, 4):
        (raw / f"sim_{number:05d}.mrc").unlink()
    copy.call(*copy.snakemake("--until", "extract_recenter"))
    assert not len(read_star(copy.results / "session" / "check" / "shard_00002.star")["set_aside"])
    for room, table in old.items():
        now = read_star(copy.results / room / "shard_00002.star")["particles"]
        assert len(now) > len(table)
        assert list(now["rlnMicrographName"][: len(table)]) == list(table["rlnMicrographName"])
    assert (copy.results / "extract" / "shard_00002.mrcs").read_bytes()[1024 : len(stack)] == stack[1024:]
    recentered = read_star(copy.results / "extract" / "recentered" / "shard_00002.star")["particles"]
    assert recentered["emflowPoseKnown"].value_counts().to_dict() == {
        "1": len(old["extract"]),
        "0": len(recentered) - len(old["extract"]),
    }


def test_a_moved_folder_is_known_again(copy):
    place = copy.folder / "results" / "tiny-input"
    (place / "micrographs").rename(place / "moved")
    journals = {p: p.read_bytes() for p in copy.results.rglob(".shard_*.journal") if "session" not in str(p)}
    moved = ("--config", "input={micrographs: results/tiny-input/moved}")
    copy.call(*copy.snakemake("--until", "extract_run", *moved))
    assert {path: path.read_bytes() for path in journals} == journals, "nothing was computed again"
    table = read_star(copy.results / "extract" / "shard_00001.star")["particles"]
    assert all("/moved/" in name for name in table["rlnMicrographName"])


def test_sessions_are_merged_each_with_its_optics(copy):
    place = copy.folder / "results" / "tiny-input"
    second = place / "second"
    data = read_mrc(place / "micrographs" / "sim_00001.mrc")
    for number in (1, 2):  # names of the first session again
        write_mrc(second / f"sim_{number:05d}.mrc", data[:, ::-1].copy() + number, 4.0)
    first = {"path": "results/tiny-input/micrographs", "even": copy.config["input"]["even"]}
    sessions = [first, {"path": "results/tiny-input/second", "even": "none/{name}.mrc", "voltage_kv": 200}]
    config = {**copy.config, "input": {**copy.config["input"], "micrographs": sessions}}
    (copy.folder / "run.yaml").write_text(yaml.safe_dump(config))
    jobs = copy.jobs()
    assert (jobs["session_check"], jobs["ctf_fit"], jobs["extract_recenter"]) == (1, 1, 1)
    assert "reconstruct_abinitio" not in jobs, "a further session changes no setting of the first"
    copy.call(*copy.snakemake("--until", "ctf_fit"))
    tables = read_star(copy.results / "ctf" / "shard_00002.star")
    names = [Path(name).parent.name for name in tables["micrographs"]["rlnMicrographName"]]
    assert names == ["micrographs", "second", "second"]
    assert list(tables["micrographs"]["rlnOpticsGroup"]) == ["1", "2", "2"]
    assert [float(v) for v in tables["optics"]["rlnVoltage"]] == [300.0, 200.0]
    assert tables["micrographs"]["emflowMicrographId"].is_unique
    config["input"]["micrographs"] = sessions[::-1]
    (copy.folder / "run.yaml").write_text(yaml.safe_dump(config))
    assert "add further ones at the end" in copy.call(*copy.snakemake("--dry-run"), code=2)

"""Which stages stay as they are, and what a project remembers; without a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emflow.cli import take_settings
from emflow.config import Settings, load_settings
from emflow.ctf.config import CtfFit
from emflow.project import memory
from emflow.project.memory import Memory
from emflow.project.stages import STAGES, decide_frozen, lineages, store_frozen, stored_frozen
from emflow.step import EmflowError

FROZEN = {"increments": dict.fromkeys(("classify", "abinitio", "refine", "heterogeneity"), "frozen")}


def settings_of(*more: dict[str, object]) -> Settings:
    return load_settings({"project": "p", "input": {"micrographs": "raw"}}, FROZEN, *more)


def make(folder: Path, key: str, lineage: str) -> None:
    """Write what a finished stage leaves."""
    stage = STAGES[key]
    for name in stage.files:
        path = folder / stage.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"resolution_angstrom": 20}')
    record = folder / "records" / stage.step / "all.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({"lineage": lineage}))


def test_a_stage_stays_if_it_is_whole_and_no_setting_before_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, settings = Path("results/p"), settings_of()
    lineage = lineages(settings, Memory())
    for key, stage in STAGES.items():
        make(folder, key, lineage[stage.step])

    def stays(*more: dict[str, object]) -> set[str]:
        changed = settings_of(*more)
        return {step.split(".")[1] for step in decide_frozen(changed, lineages(changed, Memory()))}

    everything = {"run", "abinitio", "refine", "fit"}
    assert stays() == everything
    assert stays({"execution": {"device": "cpu"}, "validate": {"maps": {"seed": 3}}}) == everything
    assert stays({"heterogeneity": {"fit": {"seed": 1}}}) == everything - {"fit"}
    assert stays({"reconstruct": {"refine": {"seed": 1}}}) == everything - {"fit", "refine"}
    assert stays({"extract": {"recenter": {"max_size_px": 64}}}) == everything - {"fit", "refine"}
    assert stays({"classify": {"run": {"seed": 1}}}) == everything - {"run"}, (
        "classes are off: nothing follows"
    )
    assert stays({"classify": {"select": {"enabled": True}}}) == {"run"}
    assert stays({"ctf": {"fit": {"patch_size": 256}}}) == set()
    assert stays({"input": {"ctf": "their.star"}}) == set()
    assert stays({"denoise": {"apply": {"tile_px": 512}}}) == everything, "picks are made on raw pixels"
    assert stays({"pick": {"apply": {"pixels": "denoised"}}}) == set()
    assert stays({"input": {"micrographs": ["raw", {"path": "more", "voltage_kv": 200}]}}) == everything
    assert stays({"input": {"micrographs": [{"path": "raw", "voltage_kv": 200}]}}) == set()
    assert stays({"increments": {"refine": "refresh"}}) == everything - {"refine"}
    (folder / "reconstruct" / "refine" / "half1.mrc").unlink()
    (folder / "reconstruct" / "abinitio" / "metrics.json").write_text('{"resolution_angstrom": null}')
    assert stays() == {"run", "fit"}


def test_jobs_read_what_the_main_process_decided(tmp_path: Path) -> None:
    assert stored_frozen(tmp_path) == frozenset()
    for decided in (frozenset({"reconstruct.abinitio"}), frozenset()):
        store_frozen(tmp_path, decided)
        assert stored_frozen(tmp_path) == decided


def test_versions_are_those_a_project_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of()
    first = memory.with_versions(memory.recall(tmp_path), settings, tmp_path)
    memory.keep(tmp_path, first)
    (tmp_path / "records" / "ctf.fit").mkdir(parents=True)
    (tmp_path / "records" / "ctf.fit" / "shard_00001.json").write_text("{}")
    old = CtfFit.version
    monkeypatch.setattr(CtfFit, "version", old + 1)
    monkeypatch.setattr(type(settings.steps["pick.apply"]), "version", 90)
    now = memory.with_versions(memory.recall(tmp_path), settings, tmp_path)
    assert memory.kept_back(settings, now) == {"ctf.fit": (old, old + 1)}, (
        "picking has never run: the new one"
    )
    assert json.loads(memory.params_of(settings, "ctf.fit", now))["version"] == old
    assert json.loads(memory.params_of(settings, "pick.apply", now))["version"] == 90
    memory.keep(tmp_path, now)
    assert memory.upgrade_steps(tmp_path, settings, ["pick.apply"]) == []
    assert memory.upgrade_steps(tmp_path, settings) == ["ctf.fit"]
    assert memory.kept_back(settings, memory.recall(tmp_path)) == {}


def test_a_restart_is_counted_and_never_asked_for_during_a_run(tmp_path: Path) -> None:
    settings = settings_of()
    before = lineages(settings, memory.recall(tmp_path))
    for count in (1, 2):
        memory.ask_restart(tmp_path, ["reconstruct.refine"])
        assert (
            json.loads(memory.params_of(settings, "reconstruct.refine", memory.recall(tmp_path)))["restart"]
            == count
        )
    after = lineages(settings, memory.recall(tmp_path))
    assert {step for step in before if before[step] != after[step]} == {
        "reconstruct.refine",
        "heterogeneity.fit",
    }
    (tmp_path / "steps.json").write_text('{"versions": 3')
    with pytest.raises(EmflowError, match="steps.json: cannot be read"):
        memory.recall(tmp_path)


def test_a_job_counts_as_the_version_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CtfFit, "version", CtfFit.version)
    rest, settings = take_settings(
        ["ctf", "fit", "--json", '{"version": 41, "restart": 2, "patch_size": 256}']
    )
    assert rest == ["ctf", "fit"]
    assert "version" not in settings
    assert "restart" not in settings
    assert CtfFit.version == 41


def test_a_list_of_sessions_is_checked_as_any_setting() -> None:
    with pytest.raises(EmflowError, match="input.micrographs"):
        settings_of({"input": {"micrographs": [{"path": "a", "voltage": 200}]}})
    settings = settings_of({"input": ["a", {"path": "b", "cs_mm": 0.0}]})
    assert load_settings(settings.as_mapping()) == settings

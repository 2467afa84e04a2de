"""Plans, first configurations and the state of the machine, in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emflow.config import load_settings
from emflow.io.record import verdict
from emflow.project import command, doctor, figures
from emflow.project.plan import Step, changed_settings, in_words
from emflow.step import EmflowError


def _kept(settings: dict[str, object]) -> str:
    """A params string as Snakemake keeps it."""
    return repr(json.dumps(settings))


def test_a_changed_setting_is_named_with_both_values():
    old, new = (
        {"version": 1, "patch_size": 512, "cs_mm": 2.7},
        {"version": 1, "patch_size": 256, "cs_mm": 2.7},
    )
    assert changed_settings([_kept(old)], [_kept(new)]) == "changed: patch_size 512 → 256"


def test_a_new_step_version_is_told_from_a_changed_setting():
    said = changed_settings([_kept({"version": 1, "a": 1})], [_kept({"version": 2, "b": None})])
    assert "step version 1 → 2" in said
    assert "a 1 → (unset)" in said
    assert "b (unset) → null" in said


def test_params_that_are_no_settings_are_said_to_have_changed():
    assert changed_settings(["'plain'"], []) == "changed: its parameters"


def test_a_plan_tells_what_runs_and_what_stays():
    steps = [
        Step("ctf_fit", 3, 1, ["changed: patch_size 512 → 256"]),
        Step("pick_apply", 3, 0),
        Step("report", 1, 1),
    ]
    said = in_words(steps)
    assert said.startswith("2 of 7 jobs would run; 5 are up to date.")
    assert "pick" not in said
    assert "1 of 3     changed: patch_size 512 → 256" in said
    assert "Nothing to be done" in in_words([Step("ctf_fit", 3, 0)])


def test_init_writes_a_configuration_that_is_valid_and_never_overwrites(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my session").mkdir()
    (tmp_path / "my session" / "a.mrc").touch()
    command.init("my session")
    settings = load_settings("emflow.yaml")
    assert settings.project == "my-session"
    assert settings.input.micrographs == "my session"
    assert settings.sample.pixel_size_angstrom is None
    assert "1 micrographs" in capsys.readouterr().out
    with pytest.raises(EmflowError, match="not overwritten"):
        command.init("my session")
    with pytest.raises(EmflowError, match="no MRC or TIFF"):
        command.init(str(tmp_path / "none"), Path("other.yaml"))


def test_the_doctor_finds_a_broken_library_and_says_what_follows(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "REQUIRED", "json no_such_library_of_ours")
    with pytest.raises(EmflowError, match="not ready"):
        command.doctor()
    said = capsys.readouterr().out
    assert "no_such_library_of_ours" in said
    assert "do: " in said


def test_the_doctor_survives_a_broken_check(monkeypatch):
    def broken():
        raise OSError("no such disk")

    monkeypatch.setattr(doctor.doctor_disk, "space", broken)
    states = {finding.what: finding.state for finding in doctor.examine()}
    assert states["broken"] == "fail"
    assert states["python"] == "ok"
    assert states["device"] in ("ok", "warn")


def test_plan_and_unlock_say_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EmflowError, match="KEY=VALUE"):
        command.plan(None, "input")
    with pytest.raises(EmflowError, match="Snakefile"):
        command.plan()
    with pytest.raises(EmflowError, match="no such project"):
        command.unlock("nothing")


def test_figures_are_never_shown_without_the_verdicts_that_did_not_pass(tmp_path, capsys):
    for name, content in (
        ("report/summary.json", {"validate": {"resolution_angstrom": 35.56}, "pick": {"picks": 12345}}),
        (
            "validate/verdicts.json",
            [verdict("Resolved?", "fail", "noise"), verdict("Halves?", "pass", "equal")],
        ),
    ):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(json.dumps(content))
    figures.main(tmp_path)
    said = capsys.readouterr().out
    assert "35.56" in said
    assert "12345" in said
    assert "fail: Resolved? noise" in said
    assert "Halves?" not in said
    assert "index.html" in said

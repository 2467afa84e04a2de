"""A configuration is validated once, and says what is wrong with the nearest right key."""

from __future__ import annotations

import json

import pytest
import yaml

from emflow.config import ROOMS, Settings, load_settings, step_models, validate
from emflow.step import EmflowError, Sample, own_fields


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"projekt": "a"}, ["projekt", "Did you mean project?"]),
        ({"ctf": {"fit": {"patchsize": 3}}}, ["ctf.fit.patchsize", "Did you mean ctf.fit.patch_size?"]),
        ({"ctf": {"fitt": {}}}, ["ctf.fitt", "Did you mean ctf.fit?"]),
        ({"pixel_size_angstrom": 1}, ["belongs to sample.pixel_size_angstrom"]),
        ({"patch_size": 256}, ["belongs to ctf.fit.patch_size"]),
        ({"ctf": {"fit": {"cs_mm": 0}}}, ["sample.cs_mm", "stands once"]),
        ({"sample": {"voltage_kv": -1}}, ["sample.voltage_kv = -1", "greater than 0", "kilovolt"]),
        ({"sample": {"symmetry": "C0"}}, ["sample.symmetry = 'C0'", "Point group"]),
        ({"sample": 3}, ["sample", "expected keys and values"]),
        ({"ctf": 3}, ["ctf", "expected steps"]),
        ({"ctf": {"fit": 3}}, ["ctf.fit", "expected keys and values"]),
        ({"project": "../etc"}, ["project", "Name of the project"]),
        ({"execution": {"device": "gpu"}}, ["execution.device", "auto"]),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_is_right(content, words):
    with pytest.raises(EmflowError) as error:
        validate(content)
    for word in words:
        assert word in str(error.value)


def test_facts_of_the_sample_reach_the_steps_that_declare_them():
    settings = validate({"sample": {"cs_mm": 0.0, "pixel_size_angstrom": 1.5}})
    for step, cfg in settings.steps.items():
        if "cs_mm" in type(cfg).model_fields:
            assert cfg.cs_mm == 0.0, step
    assert json.loads(settings.params("ctf.fit"))["cs_mm"] == 0.0


def test_later_sources_win_and_a_bare_input_is_the_micrographs(tmp_path):
    base = tmp_path / "a.yaml"
    base.write_text("input: {micrographs: a, picks: p.star}\nsample: {cs_mm: 2.0, voltage_kv: 200}\n")
    settings = load_settings(base, {"input": "b", "sample": {"cs_mm": 1.0}})
    assert settings.input.micrographs == "b"
    assert settings.input.picks == "p.star"
    assert settings.sample.cs_mm == 1.0
    assert settings.sample.voltage_kv == 200


def test_all_settings_written_out_give_the_same_settings():
    settings = validate({"project": "x", "input": "m", "sample": {"symmetry": "D2"}})
    again = validate(yaml.safe_load(yaml.safe_dump(settings.as_mapping())))
    assert {step: again.params(step) for step in again.steps} == {
        s: settings.params(s) for s in settings.steps
    }
    assert again.input == settings.input
    assert again.sample == settings.sample


def test_how_to_run_is_no_part_of_what_triggers_a_rerun():
    slow, fast = (validate({"execution": {"device": d, "threads": t}}) for d, t in (("cpu", 1), ("auto", 8)))
    assert {s: slow.params(s) for s in slow.steps} == {s: fast.params(s) for s in fast.steps}


def test_the_step_version_is_part_of_what_triggers_a_rerun(monkeypatch):
    before = validate({}).params("ctf.fit")
    monkeypatch.setattr(step_models()["ctf.fit"], "version", 99)
    assert validate({}).params("ctf.fit") != before


@pytest.mark.parametrize("text", ["a: [", "- a\n", "\ufffe"])
def test_a_file_that_is_no_configuration_is_named(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-16" if "\ufffe" in text else "utf-8")
    with pytest.raises(EmflowError, match=r"bad\.yaml"):
        load_settings(path)
    with pytest.raises(EmflowError, match="no such configuration"):
        load_settings(tmp_path / "none.yaml")


def test_every_field_says_what_it_is():
    models = {
        **step_models(),
        "sample": Sample,
        "input": type(Settings().input),
        "execution": type(Settings().execution),
    }
    for step, model in models.items():
        assert model.__doc__, step
        for name, field in own_fields(model).items() if step in step_models() else model.model_fields.items():
            assert field.description, f"{step}.{name} has no docstring"
            assert name == name.lower()


def test_every_room_with_settings_is_known():
    assert {step.split(".")[0] for step in step_models()} <= set(ROOMS)

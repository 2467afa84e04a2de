"""The command line: light help, settings from four sources, exit codes, one function for each verb."""

from __future__ import annotations

import importlib
import inspect
import json
import keyword
import subprocess
import sys

import pytest
import torch
from cyclopts import App
from cyclopts.config import Dict as DefaultsFrom

from emflow import cli
from emflow.config import step_models
from emflow.step import Run, StepConfig

VERBS = [(room, verb) for room, (_, verbs) in cli.COMMANDS.items() for verb in verbs]


def _function(room: str, verb: str):
    module = importlib.import_module(f"emflow.{room}.command")
    return getattr(module, f"{verb}_" if keyword.iskeyword(verb) else verb.replace("-", "_"))


def _step(room: str, verb: str) -> str:
    return f"{room}.{verb.replace('-', '_')}"


@pytest.mark.parametrize("words", [["--help"], ["ctf", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words):
    code = (
        "import sys\nfrom emflow.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'pandas', 'zarr', 'scipy', 'numpy', 'snakemake'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("room", "verb"), VERBS)
def test_every_verb_is_a_documented_function_with_its_settings(room, verb):
    function = _function(room, verb)
    parameters = inspect.signature(function, eval_str=True).parameters
    assert function.__doc__
    assert parameters["run"].annotation is Run
    model = step_models().get(_step(room, verb))
    if model is not None:
        assert parameters["cfg"].annotation is model
    assert cli.COMMANDS[room][1][verb], "a listing shows a line for each verb"


def test_every_step_with_settings_is_a_verb():
    assert set(step_models()) <= {_step(room, verb) for room, verb in VERBS}


@pytest.mark.parametrize("step", sorted(step_models()))
def test_settings_survive_the_command_line(step):
    """What the Snakefile passes as --json is what the verb gets, null included."""
    model = step_models()[step]
    given = model.model_validate(
        {name: None for name, field in model.model_fields.items() if "None" in str(field.annotation)}
    )
    app, got = App(), []

    def verb(*, cfg: StepConfig = model(), run: Run = Run()) -> None:
        got.append(cfg)

    verb.__annotations__["cfg"] = model
    app.default(verb)
    _, settings = cli.take_settings(["--json", json.dumps({"version": 3, **given.model_dump(mode="json")})])
    flags = {key.replace("_", "-"): value for key, value in settings.items()}
    app.config = [DefaultsFrom(flags, use_commands_as_keys=False, source="test")]
    app([], result_action="return_value", exit_on_error=False)
    assert got == [given]


def test_flags_win_over_json_over_environment(monkeypatch, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("sample: {cs_mm: 1.5}\nexecution: {device: cpu, threads: 3}\n")
    monkeypatch.setenv("EMFLOW_EXECUTION", '{"device": "cuda", "memory_gb": 2.0}')
    rest, settings = cli.take_settings(
        ["ctf", "fit", "in", "out", f"--config={config}", "--json", '{"cs_mm": 0.5}']
    )
    assert rest == ["ctf", "fit", "in", "out"]
    assert settings["cs_mm"] == 0.5
    assert settings["device"] == "cpu"
    assert settings["threads"] == 3


def _exit_of(capsys, *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    return int(stop.value.code or 0), capsys.readouterr().err


def test_what_the_user_can_mend_exits_with_2_and_one_sentence(capsys):
    code, said = _exit_of(capsys, "ctf", "fit", "a", "b", "--patchsize", "3")
    assert code == 2
    assert "--patch-size" in said
    code, said = _exit_of(capsys, "ctf", "fit", "a", "b", "--patch-size", "31")
    assert code == 2
    assert said == "emflow: --patch-size: Input should be a multiple of 2\n"
    code, said = _exit_of(capsys, "ctf", "fit", "a", "b", "--json", "{")
    assert code == 2
    assert "--json" in said


def test_a_fault_of_ours_exits_with_1(monkeypatch):
    code = (
        "import emflow.cli as cli, emflow.project.command as command\n"
        "def doctor():\n    raise RuntimeError('broken')\n"
        "command.doctor = doctor\ncli.main(['doctor'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "RuntimeError: broken" in done.stderr


def test_a_step_that_runs_out_of_memory_says_what_to_do(monkeypatch, capsys):
    def short(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    monkeypatch.setattr(cli, "build_app", lambda words: short)
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "CUDA out of memory" in said
    assert "needs more memory" in said

"""The three descriptions of the software agree: pyproject, pinned versions, conda; and the image's definition."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9_.-]", requirement)[0]).lower()


def _needed() -> dict[str, str]:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {_name(text): text for text in content["project"]["dependencies"]}


def test_the_conda_file_lists_what_the_package_needs():
    content = yaml.safe_load((ROOT / "envs" / "emflow.yaml").read_text())
    pip = next(item["pip"] for item in content["dependencies"] if isinstance(item, dict))
    listed = {_name(text): text for text in pip}
    needed = _needed()
    assert listed.keys() == needed.keys()
    assert {name: text for name, text in listed.items() if name != "torch"} == {
        name: text for name, text in needed.items() if name != "torch"
    }


def test_every_package_is_pinned_once():
    lines = [
        line.partition("#")[0].strip()
        for line in (ROOT / "envs" / "constraints.txt").read_text().splitlines()
    ]
    names = [_name(line) for line in lines if line]
    assert len(names) == len(set(names))
    assert set(_needed()) <= set(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", line) for line in lines if line)


def test_the_image_is_made_of_files_that_are_there_by_scripts_that_parse():
    sections: dict[str, list[str]] = {"": []}
    for line in (ROOT / "envs" / "emflow.def").read_text().splitlines():
        if line.startswith("%"):
            sections[name := line[1:].strip()] = []
        elif not line.startswith("#"):
            sections[name if len(sections) > 1 else ""].append(line)
    assert sections.keys() >= {"files", "post", "environment", "runscript", "test"}
    header = dict(line.split(": ") for line in sections[""] if line)
    assert header["Bootstrap"] == "docker"
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    python = re.search(r"python:(\d+)\.(\d+)", header["From"])
    assert python is not None
    assert f">={python[1]}.{python[2]}" == content["project"]["requires-python"]
    copied = [line.split() for line in sections["files"] if line.strip()]
    assert all((ROOT / source).exists() for source, _ in copied)
    assert {"Snakefile", "emflow", "workflow", "profiles", "envs"} <= {source for source, _ in copied}
    for script in ("post", "environment", "runscript", "test"):
        subprocess.run(["sh", "-n"], input="\n".join(sections[script]), text=True, check=True)

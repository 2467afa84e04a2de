"""Runs under other settings, side by side: a project's results a second time, sharing on disk what is equal.

Images and maps are hard links: every step writes to a new file and renames it, or removes the old one first, so that
neither project sees what the other makes. Tables that name files of the project are written anew with the branch's
names, so that either survives the other's removal. All keep their times, and Snakemake's notes are taken over, so that
the branch runs only what its changed settings touch.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from emflow.config import Settings, load_settings
from emflow.io.atomic import write_text
from emflow.project.lock import hold
from emflow.step import EmflowError

_IMAGES = {".mrc", ".mrcs", ".png", ".safetensors", ".npy", ".npz"}
"""Binary results: never changed in place, and naming no files."""
_TEXTS = {".star", ".json", ".yaml", ".csv", ".txt", ".cxc", ".cif", ".pdb", ".xml"}
"""Results that may name files of the project; never changed in place."""
_LEFT_OUT = (Path("report"), Path("watch"))
_CHUNK = 1 << 24


@dataclass
class Branch:
    """What a branch came to."""

    configuration: Path
    linked: int = 0
    linked_bytes: int = 0
    """Shared with the parent."""
    written: int = 0
    written_bytes: int = 0
    """Of its own."""


def make_branch(project: str, name: str, changes: Sequence[str] = ()) -> Branch:
    """Make results/NAME from results/PROJECT, and NAME.yaml with its settings.

    Parameters
    ----------
    changes
        Settings as ``heterogeneity.analyze.volumes=9``, or nested as snakemake's --config takes them.

    Raises
    ------
    EmflowError
        The project does not exist or is running, the branch or its configuration exists, or a setting is wrong.
    """
    parent, folder = Path("results") / project, Path("results") / name
    configuration = Path(f"{name}.yaml")
    if not (parent / "settings.yaml").is_file():
        raise EmflowError(f"{parent}: no such project in {Path.cwd()}, or it has never run.")
    for path in (folder, configuration):
        if path.exists():
            raise EmflowError(f"{path} exists and is not overwritten. Choose another name for the branch.")
    settings = _settings(parent / "settings.yaml", project, name, changes)
    hold(parent)
    building = Path("results") / f".{name}.branch"
    shutil.rmtree(building, ignore_errors=True)  # of a killed attempt
    branch = Branch(configuration)
    rename = Rename(project, name)
    for path, where in _results(parent):
        _take_over(path, building / where, rename, branch)
    write_text(
        building / "settings.yaml", yaml.safe_dump(settings.as_mapping(), sort_keys=False, allow_unicode=True)
    )
    _take_notes(Path(".snakemake") / "metadata", rename)
    _take_notes(Path(".snakemake") / "incomplete", rename)
    os.replace(building, folder)
    write_text(configuration, _text(settings, project, changes))
    return branch


class Rename:
    """Turns the paths of one project into those of another, in text."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = f"results/{old}/", f"results/{new}/"
        # not inside a longer path, such as other/results/old/
        self._pattern = re.compile(rb"(?<![\w./-])" + re.escape(self.old.encode()))

    def __call__(self, content: bytes) -> bytes:
        """Return the text with the other paths."""
        return self._pattern.sub(self.new.encode(), content)

    def text(self, content: str) -> str:
        """Return the same of a string."""
        return self(content.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def found_in(self, path: Path) -> bool:
        """Whether a file holds such a path."""
        with open(path, "rb") as handle:
            before = b""
            while chunk := handle.read(_CHUNK):
                if self._pattern.search(before + chunk):
                    return True
                before = chunk[-256:]
        return False


def _settings(path: Path, project: str, name: str, changes: Sequence[str]) -> Settings:
    given = yaml.safe_load(Rename(project, name).text(path.read_text(encoding="utf-8")))
    return load_settings(given, *map(_change, changes), {"project": name})


def _change(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise EmflowError(f"{text}: expected KEY=VALUE, such as heterogeneity.analyze.volumes=9.")
    try:
        content: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise EmflowError(f"{text}: the value is not valid YAML.") from None
    for part in reversed(key.split(".")):
        content = {part: content}
    return dict(content)


def _results(parent: Path) -> Iterator[tuple[Path, Path]]:
    """Files that a branch takes over, and where they go.

    Not the report, which names the project and is soon made; nor what a watcher keeps; nor what is disposable or
    belongs to a step that was interrupted: checkpoints are bound to their project.
    """
    for where, folders, names in os.walk(parent):
        here = Path(where).relative_to(parent)
        folders[:] = [f for f in folders if f != ".checkpoint" and (here / f) not in _LEFT_OUT]
        for name in folders:
            if (parent / here / name).is_symlink():
                raise EmflowError(
                    f"{parent / here / name}: a link to another folder. What a branch wrote there, its parent would "
                    "see: bring the folder back, or copy the project by hand."
                )
        for name in names:
            disposable = name.endswith(".store") or ".partial" in name or ".growing" in name
            if disposable or name == ".lock" or (name.startswith(".checkpoint")):
                continue
            if here == Path("records") / "report" or (here / name) in (
                Path("settings.yaml"),
                Path("watch.json"),
            ):
                continue
            yield parent / here / name, here / name


def _take_over(path: Path, target: Path, rename: Rename, branch: Branch) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        os.symlink(os.readlink(path), target)
        return
    hidden = path.name.startswith(".")  # journals and the like grow in place
    if not hidden and (path.suffix in _IMAGES or (path.suffix in _TEXTS and not rename.found_in(path))):
        try:
            os.link(path, target)
        except OSError:  # a file system without hard links, or too many of them
            shutil.copy2(path, target)
        else:
            branch.linked += 1
            branch.linked_bytes += path.stat().st_size
            return
    elif path.suffix in _TEXTS:
        with open(path, "rb") as source, open(target, "wb") as copy:
            copy.writelines(map(rename, source))
        shutil.copystat(path, target)
    else:
        shutil.copy2(path, target)
    branch.written += 1
    branch.written_bytes += target.stat().st_size


def _take_notes(folder: Path, rename: Rename) -> None:
    """Copy Snakemake's notes about a project's files (settings, inputs, code) under the branch's names."""
    longest = os.pathconf(folder, "PC_NAME_MAX") - 1 if folder.is_dir() else 254
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where) / name
            parts = [part.removeprefix("@") for part in path.relative_to(folder).parts]
            try:
                output = base64.urlsafe_b64decode("".join(parts)).decode()
            except ValueError:
                continue
            if not output.startswith(rename.old) or output.startswith(f"{rename.old}report/"):
                continue
            coded = base64.urlsafe_b64encode((rename.new + output.removeprefix(rename.old)).encode()).decode()
            cut = [coded[start : start + longest] for start in range(0, len(coded), longest)]
            target = folder.joinpath(*[f"@{part}" for part in cut[:-1]], cut[-1])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(rename(path.read_bytes()))
            shutil.copymode(path, target)


def _text(settings: Settings, project: str, changes: Sequence[str]) -> str:
    """Return a configuration with what differs from the defaults."""
    own = _differing(settings.as_mapping(), load_settings({}).as_mapping())
    said = f" with {' '.join(', '.join(changes).split())}" if changes else ""
    head = f"# Branch of {project}{said}. What is not written here keeps its default: config/default.yaml.\n"
    content = {"project": settings.project, **own}
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _differing(given: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, Mapping):
            inner = _differing(value, default.get(key) or {})
            found |= {key: inner} if inner else {}
        elif key not in default or value != default[key]:
            found[key] = value
    return found

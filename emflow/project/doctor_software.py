"""The software: versions against those that emflow is tested with, and the weights that it ships."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import emflow
from emflow.project.finding import Finding
from emflow.project.past_run import sha256_of

_PACKAGE = Path(emflow.__file__).parent


def pins(constraints: Path = _PACKAGE.parent / "envs" / "constraints.txt") -> Iterator[Finding]:
    """Compare what emflow needs with the pinned versions."""
    if not constraints.is_file():
        yield Finding("versions", "ok", "no list of pinned versions beside an installed emflow")
        return
    lines = (line.partition("#")[0].strip() for line in constraints.read_text(encoding="utf-8").splitlines())
    pinned = {
        _plain(name): version for name, _, version in (line.partition("==") for line in lines) if version
    }
    needed = [
        re.split(r"[^A-Za-z0-9_.-]", text)[0]
        for text in metadata.requires("emflow") or []
        if "extra" not in text
    ]
    other = []
    for name in needed:
        here, tested = _version(name), pinned.get(_plain(name))
        if tested and here and here.partition("+")[0] != tested:
            other.append(f"{name} {here} ({tested})")
    if other:
        yield Finding(
            "versions", "warn", f"other than tested: {', '.join(other)}",
            "Results may differ in their last digits from those elsewhere, or a step may not work.",
            "pip install -c envs/constraints.txt -e .",
        )  # fmt: skip
    else:
        yield Finding("versions", "ok", f"{len(needed)} packages as pinned in {constraints.name}")


def weights(folder: Path = _PACKAGE) -> Iterator[Finding]:
    """Check the weights that are shipped against their manifests."""
    shipped = sorted(folder.rglob("*.safetensors"))
    bad = []
    for path in shipped:
        try:
            told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"]
            if sha256_of(path) != told:
                bad.append(f"{path.name} is not what its manifest says")
        except (OSError, ValueError, KeyError, TypeError) as error:
            bad.append(f"{path.name}: {error}")
    if not shipped or bad:
        yield Finding(
            "weights", "fail", "; ".join(bad) or "none are shipped with this emflow", "Denoising stops.",
            "Install emflow again, or bring the files back: git checkout -- emflow",
        )  # fmt: skip
    else:
        yield Finding(
            "weights", "ok", f"{', '.join(path.name for path in shipped)}: digests as in the manifest"
        )


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

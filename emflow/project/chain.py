"""A project as the Snakefile sees it: settings validated once, lists of shards, one run at a time."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from emflow.config import ROOMS, Settings, load_settings
from emflow.io.atomic import write_text
from emflow.project.lock import hold
from emflow.project.memory import Memory, in_words, keep, kept_back, params_of, recall, with_versions
from emflow.project.stages import decide_frozen, lineages, store_frozen, stored_frozen
from emflow.project.volume import find_volume, stored_parts
from emflow.project.watch.ready import is_followed, ready_files
from emflow.step import EmflowError

EXAMPLE = "config/demo.yaml"
_SHARD = re.compile(r"shard_(\d+)\.star$")
_LOOKS = """--lint --list-rules --list -l --list-target-rules --lt --print-compilation --dag --rulegraph
--filegraph --d3dag --summary -S --detailed-summary -D --unlock --touch -t --cleanup-metadata --cm
--cleanup-shadow --containerize --archive --report --generate-unit-tests --delete-all-output
--delete-temp-output --list-changes --lc --list-input-changes --li --list-params-changes --lp
--list-untracked --lu --conda-cleanup-envs --conda-create-envs-only --list-conda-envs""".split()  # noqa: SIM905
"""Snakemake's options that only look or tidy: they must not grow the stored lists of micrographs."""


@dataclass(frozen=True)
class Chain:
    """What the rules need to know of a project."""

    settings: Settings
    shards: dict[str, str]
    """Number of each shard (``00001``) → the list of its micrographs."""
    memory: Memory = Memory()
    frozen: frozenset[str] = frozenset()
    """Steps that stay as they are: they have no rule in this run."""
    volume: str = ""
    """Description of the volume, in a project of one."""
    parts: dict[str, str] = field(default_factory=dict)
    """Number of each part of the volume → the list of its blocks."""
    retries: int = 2
    """How often a shard's job is tried again, so that a micrograph on which it dies is found and set aside."""

    @property
    def folder(self) -> str:
        """Folder of the results, relative to the working folder."""
        return f"results/{self.settings.project}"

    @property
    def rooms(self) -> list[str]:
        """Rooms whose rules the project needs: a volume's, or those of single particles."""
        if self.settings.input.volume:
            return ["vem", "report"]
        return [*(room for room in ROOMS if room != "vem"), "shown", "report"]

    @property
    def gpu(self) -> int:
        """GPUs that a GPU step asks the scheduler for."""
        return 0 if self.settings.execution.device == "cpu" else 1

    @property
    def gpus(self) -> int:
        """GPUs that a step asks for which can use several."""
        return self.gpu * max(1, self.settings.execution.gpus)

    def of(self, room: str, pattern: str) -> list[str]:
        """Files of an optional room, one for each shard where the pattern holds ``{shard}``; none without the room."""
        if room not in ROOMS:
            return []
        numbers = self.shards if "{shard}" in pattern else [""]
        return [pattern.replace("{shard}", number) for number in numbers]

    def wanted(self, step: str, *paths: str) -> list[str]:
        """Files of a step that is off unless its settings say ``enabled``; none while it is off."""
        return list(paths) if getattr(self.settings.section(step), "enabled", False) else []

    @property
    def _pixels(self) -> str:
        return str(getattr(self.settings.section("pick.apply"), "pixels", "raw"))

    @property
    def pick_from(self) -> str:
        """Table of micrographs that picking reads."""
        room = "denoise" if self._pixels == "denoised" else "session/check"
        return f"<results>/{room}/shard_{{shard}}.star"

    @property
    def assessed(self) -> list[str]:
        """Table of the assessment of a shard's micrographs; none where it is off."""
        wanted = getattr(self.settings.section("session.select"), "assessment", "off") != "off"
        return ["<results>/pick/assess/shard_{shard}.star"] if wanted and "pick" in ROOMS else []

    @property
    def other_pixels(self) -> str | None:
        """The pixels, raw or denoised, that picking does not use; None where the two cannot be compared."""
        given = self.settings.input
        if given.picks or not given.truth or "denoise" not in ROOMS:
            return None
        return "raw" if self._pixels == "denoised" else "denoised"

    @property
    def _classified(self) -> bool:
        return "classify" in ROOMS and getattr(self.settings.section("classify.select"), "enabled", False)

    @property
    def shows_denoised(self) -> list[str]:
        """What the report shows of denoising: all of a simulated session, which is scored; else a few micrographs."""
        if self.settings.input.truth:
            return self.of("denoise", "<results>/denoise/shard_{shard}.star")
        return self.of("denoise", "<results>/denoise/shown/micrographs.star")

    @property
    def keeps_denoised(self) -> bool:
        """Whether denoised images stay after picking."""
        return self.settings.execution.keep_denoised or bool(self.settings.input.truth)

    @property
    def denoising(self) -> str:
        """Settings of denoising; with the digest of picking's, where images are made for it and then removed."""
        return self.section("denoise.apply", **({"reader": self.reader} if self.reader else {}))

    @property
    def picking(self) -> str:
        """Settings of picking; where it reads denoised images, it removes them."""
        return self.section("pick.apply", **({"free": self.reader} if self.reader else {}))

    @property
    def reader(self) -> str:
        """Digest of the settings under which denoised images are picked from; empty where none are."""
        if self._pixels != "denoised" or self.settings.input.picks:
            return ""
        return hashlib.sha256(self.section("pick.apply").encode()).hexdigest()[:12]

    @property
    def particles(self) -> str:
        """Table of particles that the first map is made of: those that classification selects, where it is on."""
        return (self.selected or ["<results>/extract/particles.star"])[0]

    @property
    def selected(self) -> list[str]:
        """Table of the particles that classification selects; none where it is off."""
        return ["<results>/classify/selected.star"] if self._classified else []

    @property
    def removed(self) -> list[str]:
        """Table of the particles that classification removes, where it is on."""
        return ["<results>/classify/removed.star"] if self._classified else []

    def labels(self, step: str, key: str) -> list[str]:
        """The file of a person's labels that a setting names, if it is there: an input of the step."""
        name = getattr(self.settings.section(step), key)
        return [name] if name and Path(name).is_file() else []

    def threads(self, most: int) -> int:
        """Threads of a job that can use ``most``."""
        return min(most, self.settings.execution.threads or most)

    def section(self, step: str, **changes: object) -> str:
        """JSON of a step's settings and version: what triggers its rerun; ``{}`` for a step without any."""
        settings = params_of(self.settings, step, self.memory) if step in self.settings.steps else "{}"
        return json.dumps({**json.loads(settings), **changes}) if changes else settings


def open_chain(workflow: Any) -> Chain:
    """Open the project of a Snakemake workflow; called where the Snakefile is read.

    Snakemake reads the Snakefile again in every job. Only the main process of a run that executes validates
    the configuration afresh, looks for micrographs, and stores both; jobs read what was stored, so that a
    configuration edited during a run changes none of it. A dry run writes nothing.
    """
    try:
        if not workflow.is_main_process:
            # the run tries a job again; the job itself, Snakemake once more on a cluster's node, does not
            return replace(_stored(_settings(workflow)), retries=0)
        return _in_main_process(workflow)
    except EmflowError as error:
        print(f"emflow: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _in_main_process(workflow: Any) -> Chain:
    dry = workflow.output_settings.dryrun
    looks = not dry and bool(set(sys.argv) & set(_LOOKS))
    if not workflow.config_settings.overwrite_config:
        if not (dry or looks):
            raise EmflowError(
                f"No configuration. Add --configfile FILE: `emflow init` writes one for your data; {EXAMPLE} "
                "is an example."
            )
        print(f"emflow: no configuration given; looking at {EXAMPLE}.", file=sys.stderr)
    settings = _settings(workflow)
    if looks:
        return _stored(settings)
    wanted = {"model": "an atomic model (PDB or mmCIF)", "labels": "labels of the volume's slices"}
    for name, what in wanted.items():
        path = getattr(settings.input, name)
        if path and not Path(path).exists():  # Snakemake would call finished results up to date
            raise EmflowError(f"input.{name}: no file {path}; expected {what}. Correct it, or leave it out.")
    folder = Path("results") / settings.project
    memory = with_versions(recall(folder), settings, folder)
    if differing := kept_back(settings, memory):
        print(f"emflow: {in_words(differing, settings.project)}", file=sys.stderr)
    lineage = lineages(settings, memory)
    stays = decide_frozen(settings, lineage)
    chain = Chain(settings, {}, memory, stays)
    if dry:
        return _with_input(chain, Path(workflow.snakemake_tmp_dir))
    folder.mkdir(parents=True, exist_ok=True)
    hold(folder)
    stored = yaml.safe_dump(settings.as_mapping(), sort_keys=False, allow_unicode=True)
    frozen = folder / "settings.yaml"
    if not frozen.exists() or frozen.read_text(encoding="utf-8") != stored:
        write_text(frozen, stored)
    keep(folder, memory)
    store_frozen(folder, stays)
    export(settings, lineage)
    return _with_input(chain)


def _with_input(chain: Chain, pretend: Path | None = None) -> Chain:
    """Look for what comes in: micrographs, or a volume."""
    if chain.settings.input.volume:
        volume, parts = find_volume(chain.settings, pretend)
        return replace(chain, volume=volume, parts=parts)
    return replace(chain, shards=find_shards(chain.settings, pretend))


def _settings(workflow: Any) -> Settings:
    given = workflow.config_settings
    # Merged here and not taken from Snakemake's ``config``, so that `--config input=FOLDER` replaces the
    # micrographs and leaves the rest of a file's input section as it is.
    files: list[str | Path | Mapping[str, Any]] = list(given.configfiles)
    if not files and not given.config:
        files = [Path(workflow.basedir) / EXAMPLE]
    return load_settings(*files, {key: _nulls(value) for key, value in given.config.items()})


def _nulls(value: Any) -> Any:
    """Snakemake takes every value of ``--config`` as text, ``null`` too."""
    if isinstance(value, Mapping):
        return {key: _nulls(item) for key, item in value.items()}
    return None if value == "null" else value


def _stored(settings: Settings) -> Chain:
    folder = Path("results") / settings.project
    frozen = folder / "settings.yaml"
    if frozen.exists():
        settings = load_settings(frozen)
    memory = recall(folder)
    export(settings, lineages(settings, memory))
    volume, parts = stored_parts(folder)
    return Chain(settings, stored_shards(folder), memory, stored_frozen(folder), volume=volume, parts=parts)


def stored_shards(folder: Path) -> dict[str, str]:
    """Return the stored lists of a project: number of the shard → path."""
    found = ((_SHARD.search(path.name), path) for path in (folder / "session").glob("shard_*.star"))
    return {match[1]: str(path) for match, path in sorted(found, key=lambda item: item[1]) if match}


def find_shards(settings: Settings, pretend: Path | None = None) -> dict[str, str]:
    """Look for micrographs and return the lists of shards.

    New and grown lists are written to the project, or to the folder ``pretend`` for a run that must not
    change anything; lists that stay as they are keep their path and their time either way.
    """
    from emflow.io.shards import shard_path, write_shard
    from emflow.session.command import find_session
    from emflow.session.config import SessionFind

    given, cfg = settings.input, settings.section("session.find")
    assert isinstance(cfg, SessionFind)
    folder = Path("results") / settings.project
    shards = find_session(
        given.micrographs,
        folder / "session",
        cfg,
        even=given.even,
        odd=given.odd,
        write=pretend is None,
        ready=ready_files(folder) if is_followed(given.micrographs) else None,
    )
    lists = {}
    for shard in shards:
        path = shard.path
        if shard.changed and pretend is not None:
            path = shard_path(pretend, shard.number)
            write_shard(replace(shard, path=path))
        lists[f"{shard.number:05d}"] = str(path)
    return lists


def export(settings: Settings, lineage: Mapping[str, str]) -> None:
    """Set what jobs inherit: the same emflow first on PATH, how to run, whom to die with, and for the records
    what the settings of all steps before a pooling stage come to.

    None of it is part of a job's params or command, so that none of it triggers a rerun.
    """
    here = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    if path.split(os.pathsep)[0] != here:
        os.environ["PATH"] = os.pathsep.join([here, path])
    execution = settings.execution.model_dump(mode="json", exclude={"threads", "gpus"})
    execution["keep_denoised"] |= bool(settings.input.truth)
    os.environ["EMFLOW_EXECUTION"] = json.dumps(execution)
    os.environ["EMFLOW_LINEAGE"] = json.dumps(dict(lineage))
    os.environ["EMFLOW_PARENT"] = str(os.getpid())

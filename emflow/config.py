"""All settings together: read the YAML, validate it once, hand each step its section."""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field, ValidationError

from emflow.project.watch.config import Watch
from emflow.step import EmflowError, Execution, Sample, Session, StepConfig, own_fields, sample_fields

ROOMS = (
    "simulate",
    "session",
    "ctf",
    "denoise",
    "pick",
    "extract",
    "classify",
    "reconstruct",
    "heterogeneity",
    "validate",
    "vem",
)
"""Rooms with settings; removing an optional room means deleting its folder, its rule file and its name here."""


Model = TypeVar("Model", bound=StepConfig)


class Input(StepConfig):
    """What comes in. Paths are relative to the folder where snakemake runs."""

    micrographs: str | list[str | Session] | None = None
    """Micrographs: a folder, a glob, a text file with one path a line (MRC or TIFF), or a RELION micrographs STAR. Or
    a list of these, one for each session: a path, or a mapping with path and what differs (even, odd,
    pixel_size_angstrom, voltage_kv, cs_mm, amplitude_contrast). Further sessions are added at the list's end."""
    even: str | None = None
    """Even half sums: a pattern with {name} for the micrograph's base name without its suffix."""
    odd: str | None = None
    """Odd half sums, likewise."""
    ctf: str | None = None
    """Somebody's CTF: a STAR table (RELION's columns), matched by base name; replaces the CTF step."""
    picks: str | None = None
    """Somebody's picks: a particle STAR with coordinates, matched by base name; replaces the picking step."""
    volume: str | None = None
    """Anisotropic EM volume to restore, in place of micrographs: TIFF stack or folder of slices, MRC, HDF5
    (FILE:/NAME), Zarr or OME-Zarr. A project has micrographs or a volume, never both."""
    labels: str | None = None
    """Labels of some of the volume's slices, to learn the segmentation from: like the volume, 0 for membrane, and 0 all
    over where a slice is not labelled. Without them nothing is segmented."""
    model: str | None = None
    """Atomic model of the specimen (PDB or mmCIF): the validation compares the map with it, nothing else reads it."""
    truth: str | None = None
    """Folder with the truth of a simulated session or volume, to score the results against."""


class Increments(StepConfig):
    """What more particles do to the stages that pool them all. frozen: what was made stays until a setting changes
    that it depends on, or `emflow restart` asks; refresh: it is made again, from its previous result where it can.
    Never part of what triggers a rerun."""

    classify: str = Field("refresh", pattern=r"^(frozen|refresh)$")
    """Classes, where classify.select.enabled; particles that come later than frozen classes are all kept."""
    abinitio: str = Field("frozen", pattern=r"^(frozen|refresh)$")
    """First map, once two random starts agree; later particles get their first poses from the refinement."""
    refine: str = Field("refresh", pattern=r"^(frozen|refresh)$")
    """Refinement; it goes on from its previous result (see reconstruct.refine.warm_start)."""
    heterogeneity: str = Field("refresh", pattern=r"^(frozen|refresh)$")
    """Fit of the heterogeneity; it goes on from its previous result (see heterogeneity.fit.warm_start)."""


class Settings(StepConfig):
    """A whole configuration: general sections here, one section per step from the rooms."""

    project: str = Field("project", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the project; results go to results/<project>."""
    input: Input = Input()
    sample: Sample = Sample()
    execution: Execution = Execution()
    increments: Increments = Increments()
    watch: Watch = Watch()
    steps: dict[str, StepConfig] = {}

    def section(self, step: str) -> StepConfig:
        """Return a step's settings (``ctf.fit``) with the sample's facts it declares."""
        return self.steps[step]

    def params(self, step: str) -> str:
        """JSON of a step's settings and version: what triggers its rerun."""
        cfg = self.section(step)
        return json.dumps({"version": cfg.version, **cfg.model_dump(mode="json")})

    def as_mapping(self) -> dict[str, Any]:
        """All settings as a configuration file holds them, each fact once; without `watch`, whose addresses are
        nobody else's business."""
        content = self.model_dump(
            mode="json", include={"project", "input", "sample", "execution", "increments"}
        )
        for step, cfg in self.steps.items():
            room, verb = step.split(".")
            own = cfg.model_dump(mode="json", include=set(own_fields(type(cfg))))
            content.setdefault(room, {})[verb] = own
        return content


GENERAL: dict[str, type[StepConfig]] = {
    "input": Input,
    "sample": Sample,
    "execution": Execution,
    "increments": Increments,
    "watch": Watch,
}
"""Sections that belong to no step."""


def step_models() -> dict[str, type[StepConfig]]:
    """Return every step's settings model by its name, ``room.verb``."""
    models: dict[str, type[StepConfig]] = {}
    for room in ROOMS:
        module = importlib.import_module(f"emflow.{room}.config")
        models.update({f"{room}.{verb}": model for verb, model in module.STEPS.items()})
    return models


def load_settings(*sources: str | Path | Mapping[str, Any]) -> Settings:
    """Validate YAML files or mappings, later ones over earlier ones; unset keys take their defaults.

    Raises
    ------
    EmflowError
        Naming the key, the value, what is allowed, and the nearest right key.
    """
    merged: dict[str, Any] = {}
    for source in sources:
        merged = _merge(merged, source if isinstance(source, Mapping) else read_yaml(source))
    return validate(merged)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file safely; an empty file is an empty mapping."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EmflowError(f"{path}: no such configuration file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EmflowError(f"{path}: not valid YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise EmflowError(f"{path}: expected keys and values, found {type(content).__name__}.")
    return content


def validate(content: Mapping[str, Any]) -> Settings:
    """Validate a merged configuration; see :func:`load_settings`."""
    models = step_models()
    content = _merge({}, content)
    rooms = {step.split(".")[0] for step in models}
    _known(content, [*Settings.model_fields.keys() - {"steps"}, *sorted(rooms)], "")
    sample = build(Sample, content.get("sample"), "sample")
    steps: dict[str, StepConfig] = {}
    for room in sorted(rooms):
        section = content.get(room) or {}
        if not isinstance(section, Mapping):
            raise EmflowError(f"{room}: expected steps with their settings, found {section!r}.")
        _known(section, [s.split(".")[1] for s in models if s.startswith(room + ".")], f"{room}.")
    for step, model in models.items():
        room, verb = step.split(".")
        own = (content.get(room) or {}).get(verb) or {}
        for key in own if isinstance(own, Mapping) else ():
            if key in Sample.model_fields and key in model.model_fields:
                raise EmflowError(f"{step}.{key}: this fact stands once, in sample.{key}; move it there.")
        facts = {name: getattr(sample, name) for name in sample_fields(model)}
        steps[step] = build(model, own, step, facts, list(own_fields(model)))
    whole = {
        "project": content.get("project", Settings.model_fields["project"].default),
        "input": build(Input, content.get("input"), "input"),
        "sample": sample,
        "execution": build(Execution, content.get("execution"), "execution"),
        "increments": build(Increments, content.get("increments"), "increments"),
        "watch": build(Watch, content.get("watch"), "watch"),
        "steps": steps,
    }
    return build(Settings, whole, "")


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if key == "input" and isinstance(
            value, str | list
        ):  # short for the micrographs: --config input=FOLDER
            value = {"micrographs": value}
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(dict(merged[key]), value)
        else:
            merged[key] = value
    return merged


def _known(content: Mapping[str, Any], allowed: list[str], prefix: str) -> None:
    for key in content:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1)
            elsewhere = [path for path in _paths() if path.rsplit(".", 1)[-1] == key]
            slip = near and difflib.SequenceMatcher(None, str(key), near[0]).ratio() > 0.9
            if elsewhere and not slip:
                hint = f"It belongs to {' or '.join(elsewhere)}."
            elif near:
                hint = f"Did you mean {prefix}{near[0]}?"
            else:
                hint = f"Known here: {', '.join(sorted(allowed))}."
            raise EmflowError(f"{prefix}{key}: no such key. {hint}")


def _paths() -> list[str]:
    """Dotted path of every key that a configuration may hold."""
    paths = [f"{section}.{name}" for section, model in GENERAL.items() for name in model.model_fields]
    return paths + [f"{step}.{name}" for step, model in step_models().items() for name in own_fields(model)]


def build(
    model: type[Model],
    content: Any,
    prefix: str,
    facts: Mapping[str, Any] | None = None,
    allowed: list[str] | None = None,
) -> Model:
    """Build a settings model from what a file holds; ``prefix`` is where it stands there.

    Raises
    ------
    EmflowError
        Naming the key, the value, what is allowed, and the nearest right key.
    """
    values = {} if content is None else content
    if not isinstance(values, Mapping):
        raise EmflowError(f"{prefix}: expected keys and values, found {values!r}.")
    _known(
        values, allowed if allowed is not None else list(model.model_fields), f"{prefix}." if prefix else ""
    )
    try:
        return model.model_validate({**values, **(facts or {})})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([prefix, *map(str, first["loc"])]).lstrip(".")
        field = model.model_fields.get(str(first["loc"][0])) if first["loc"] else None
        about = f" {field.description}" if field is not None and field.description else ""
        raise EmflowError(f"{where} = {first['input']!r}: {first['msg']}.{about}") from None

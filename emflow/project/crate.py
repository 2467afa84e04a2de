"""A run's record as an RO-Crate of the Provenance Run Crate profile, made of the steps' records.

https://w3id.org/ro/wfrun/provenance/0.5 says what the entities are. The JSON-LD is written as it is: the
profile's entities would have to be built one by one with a library too.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from emflow.io.atomic import write_bytes, write_text
from emflow.project.crate_files import Entity, Files, Graph, Seen, moment, printable, ref
from emflow.project.crate_jobs import COMPLETED, PARAMETER_PROFILE, add_job, ended, started
from emflow.project.past_run import PastRun, micrographs_of, texts_of

METADATA = "ro-crate-metadata.json"
_CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
_BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
_SNAKEMAKE = "https://w3id.org/workflowhub/workflow-ro-crate#snakemake"
_WORKFLOW = "records/workflow"
_HALVES = ("emflowEvenName", "emflowOddName")
_LIGHT = (".json", ".yaml", ".smk", ".html", "Snakefile")


def write_crate(
    past: PastRun, snakefile: Path, *, pixels: bool, licence: str | None = None, archive: Path | None
) -> Path:
    """Write ``ro-crate-metadata.json`` into a project, and a zip without data where ``archive`` names one.

    The Snakefile and its rules are kept in ``records/workflow``: the crate holds the workflow that ran.
    """
    keep_workflow(snakefile, past.folder / _WORKFLOW)
    path = past.folder / METADATA
    write_text(path, as_text(build_crate(past, pixels=pixels, licence=licence)))
    if archive is not None:
        content = build_crate(past, pixels=pixels, licence=licence, carried=is_light)
        write_bytes(archive, _zip(past.folder, as_text(content)))
    return path


def keep_workflow(snakefile: Path, folder: Path) -> None:
    """Copy the Snakefile and its rules, unless the folder is where they came from."""
    if snakefile.resolve().is_relative_to(folder.resolve()):
        return
    (folder / "workflow" / "rules").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(snakefile, folder / "Snakefile")
    for rules in sorted((snakefile.parent / "workflow" / "rules").glob("*.smk")):
        shutil.copyfile(rules, folder / "workflow" / "rules" / rules.name)


def is_light(name: str) -> bool:
    """Whether the zip holds a file of the project: settings, lists of micrographs, records, metrics, the page, no data."""
    return name == "." or name.endswith(_LIGHT) or name.startswith("session/shard_")


def build_crate(
    past: PastRun,
    *,
    pixels: bool = False,
    licence: str | None = None,
    carried: Callable[[str], bool] = lambda name: True,
) -> dict[str, Any]:
    """Return a run's crate as JSON-LD; see :class:`emflow.project.crate_files.Files` for ``pixels`` and ``carried``."""
    graph = Graph()
    files = Files(graph, past, pixels=pixels, carried=carried)
    settings = files.result("settings.yaml", exampleOfWork=ref("#input/settings"))
    inputs = [settings, *_inputs(graph, files, past)]
    done = [add_job(graph, files, job) for job in past.jobs]
    results = [files.result(name) for name in past.results()]
    page = [
        files.result(f"report/{name}")
        for name in ("index.html", "summary.json")
        if files.has(f"report/{name}")
    ]
    tools = list({tool["@id"]: tool for _, tool in done}.values())
    steps, controls = _steps(graph, past, done)
    workflow = _workflow(graph, files, str(past.jobs[-1].record.get("emflow")), tools, steps)
    run = graph.add(
        "#run",
        "CreateAction",
        name=f"Run of the project {past.name}",
        description=f"From micrographs to results in {len(past.jobs)} jobs.",
        instrument=workflow,
        object=inputs,
        result=[*results, *page],
        startTime=started(past.jobs[0].record),
        endTime=max(ended(job.record) for job in past.jobs),
        actionStatus=COMPLETED,
    )
    engine = graph.add(
        "#engine",
        "OrganizeAction",
        name="Snakemake's run of the workflow",
        instrument=_engine(graph, past),
        object=controls,
        result=run,
        startTime=started(past.jobs[0].record),
        endTime=graph.entities["#run"]["endTime"],
    )
    mentions = [run, engine, *(action for action, _ in done), ref("#micrographs")]
    _root(graph, past, licence, workflow, mentions)
    return {"@context": _CONTEXT, "@graph": graph.as_list()}


def _root(
    graph: Graph, past: PastRun, licence: str | None, workflow: dict[str, str], mentions: list[dict[str, str]]
) -> None:
    """Describe the crate itself; its parts are all files and folders."""
    parts = [ref(key) for key, entity in graph.entities.items() if {"File", "Dataset"} & set(_kinds(entity))]
    profiles = [
        graph.add(uri, "CreativeWork", name=name, version=uri.rsplit("/", 1)[1])
        for uri, name in _PROFILES.items()
    ]
    licence = licence or "Not stated: ask who owns the data."
    address = licence if licence.startswith(("http://", "https://")) else "#licence"
    graph.add(
        METADATA,
        "CreativeWork",
        about=ref("./"),
        conformsTo=[ref("https://w3id.org/ro/crate/1.1"), profiles[-1]],
    )
    graph.add(
        "./",
        "Dataset",
        name=f"emflow: {past.name}",
        description=f"Record of a run of emflow ({len(past.jobs)} jobs): inputs, settings, code, environment, "
        "results with their digests, and what each job cost. Relative paths of the settings count from "
        f"{printable(str(past.work))}.",
        datePublished=moment(time.time()),
        license=graph.add(address, "CreativeWork", name=licence, description="Licence of the results."),
        conformsTo=profiles,
        mainEntity=workflow,
        hasPart=parts,
        mentions=mentions,
        identifier=past.name,
    )


def _kinds(entity: Entity) -> list[str]:
    kind = entity["@type"]
    return [kind] if isinstance(kind, str) else kind


def _inputs(graph: Graph, files: Files, past: PastRun) -> Iterator[dict[str, str]]:
    """Describe what the run was given: the micrographs by name, size and time, and each file that a setting names."""
    images = []
    for row in micrographs_of(past.folder):
        listed = Seen(int(row["emflowSize"]), int(row["emflowMtimeNs"])) if "emflowSize" in row else None
        images.append(files.add(row["rlnMicrographName"], pixels=True, seen=listed))
        halves = [row[column] for column in _HALVES if row.get(column, "None") not in ("", "None")]
        images += [files.add(name, pixels=True) for name in halves]
    graph.add(
        "#micrographs",
        "Collection",
        name="micrographs",
        description="Micrographs, and half sums where there are any, in the order in which they were first seen.",
        hasPart=images,
        mainEntity=images[0] if images else None,
        exampleOfWork=ref("#input/micrographs"),
    )
    graph.add(
        "#input/micrographs",
        "FormalParameter",
        name="micrographs",
        additionalType="Collection",
        conformsTo=ref(PARAMETER_PROFILE),
        workExample=ref("#micrographs"),
    )
    graph.add(
        "#input/settings",
        "FormalParameter",
        name="settings",
        additionalType="File",
        conformsTo=ref(PARAMETER_PROFILE),
        workExample=files.result("settings.yaml"),
    )
    graph.add(PARAMETER_PROFILE, "CreativeWork", name="FormalParameter", version="1.0-RELEASE")
    yield ref("#micrographs")
    for name in sorted(set(texts_of(past.settings))):
        if len(name) < 1000 and "\0" not in name and files.place(name).is_file():
            yield files.add(name)


def _steps(
    graph: Graph, past: PastRun, done: list[tuple[dict[str, str], dict[str, str]]]
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Describe the steps in the order in which they first ran, and each job as the execution of one."""
    steps: dict[str, dict[str, str]] = {}
    controls = []
    for job, (action, tool) in zip(past.jobs, done, strict=True):
        identity = f"#step/{job.rule}"
        if job.rule not in steps:
            steps[job.rule] = graph.add(
                identity, "HowToStep", name=job.rule, position=str(len(steps) + 1), workExample=[]
            )
        examples = graph.entities[identity].setdefault("workExample", [])
        if tool not in examples:
            examples.append(tool)
        controls.append(
            graph.add(
                f"#execution/{job.name}",
                "ControlAction",
                name=job.name,
                instrument=steps[job.rule],
                object=action,
            )
        )
    return list(steps.values()), controls


def _workflow(
    graph: Graph, files: Files, version: str, tools: list[dict[str, str]], steps: list[dict[str, str]]
) -> dict[str, str]:
    graph.add(
        _SNAKEMAKE,
        "ComputerLanguage",
        name="Snakemake",
        alternateName="SnakeMake",
        identifier=ref("https://doi.org/10.1093/bioinformatics/bts480"),
        url=ref("https://snakemake.readthedocs.io"),
    )
    for path in sorted((files.folder / _WORKFLOW / "workflow" / "rules").glob("*.smk")):
        files.result(f"{_WORKFLOW}/workflow/rules/{path.name}")
    workflow = files.result(
        f"{_WORKFLOW}/Snakefile",
        kinds=["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
        programmingLanguage=ref(_SNAKEMAKE),
        license="https://spdx.org/licenses/BSD-3-Clause",
        version=version,
        conformsTo=graph.add(
            _BIOSCHEMAS, "CreativeWork", name="ComputationalWorkflow", version="1.0-RELEASE"
        ),
        input=[ref("#input/settings"), ref("#input/micrographs")],
        hasPart=tools,
        step=steps,
    )
    graph.entities[workflow["@id"]]["name"] = "emflow: from micrographs to a validated map"
    return workflow


def _engine(graph: Graph, past: PastRun) -> dict[str, str]:
    versions = [(job.record.get("libraries") or {}).get("snakemake") for job in past.jobs]
    version = next((version for version in reversed(versions) if version), None)
    return graph.add(
        "#snakemake",
        "SoftwareApplication",
        name="Snakemake",
        softwareVersion=version,
        url="https://snakemake.readthedocs.io",
    )


def as_text(content: dict[str, Any]) -> str:
    """Return JSON that any reader takes: names are already escaped."""
    return json.dumps(content, indent=1, ensure_ascii=True) + "\n"


def _zip(folder: Path, metadata: str) -> bytes:
    """Pack what is light beside the metadata."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(METADATA, metadata)
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            hidden = any(part.startswith(".") for part in name.split("/"))
            if path.is_file() and is_light(name) and not hidden and name != METADATA:
                archive.write(path, os.fsencode(name).decode("utf-8", "replace"))
    return buffer.getvalue()

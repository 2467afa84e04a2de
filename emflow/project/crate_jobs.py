"""Jobs as entities of an RO-Crate: the tool with its environment, the settings, the action with its cost."""

from __future__ import annotations

import calendar
import hashlib
import json
import time
from typing import Any

from emflow.project.crate_files import Files, Graph, Seen, moment, printable, ref
from emflow.project.past_run import Job

_COSTS = {
    "wall_s": ("wall time", "SEC"), "cpu_s": ("CPU time", "SEC"), "peak_memory_mb": ("peak memory", "4L"),
    "threads": ("threads", "C62"),
}  # fmt: skip
"""Figure of a record → its name and its unit in UN/CEFACT codes (second, megabyte, one)."""
_ENVIRONMENT = (
    "emflow", "commit", "dirty", "python", "libraries", "system", "machine", "processor", "gpu", "driver", "cuda",
    "device",
)  # fmt: skip
COMPLETED = "http://schema.org/CompletedActionStatus"
PARAMETER_PROFILE = "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"


def add_job(graph: Graph, files: Files, job: Job) -> tuple[dict[str, str], dict[str, str]]:
    """Describe one job; return references to its action and to its tool."""
    record = job.record
    parameters, values = _settings(graph, job)
    tool = _tool(graph, job, parameters)
    inputs = [_input(files, item) for item in record.get("inputs", [])]
    if record.get("weights"):
        inputs.append(_weights(graph, files, job))
    action = graph.add(
        f"#job/{job.name}",
        "CreateAction",
        name=f"{job.step}, {job.name.partition('/')[2]}",
        description=printable(" ".join(str(word) for word in record.get("command", [])[1:])),
        instrument=tool,
        object=[*inputs, *values],
        result=[files.add(item["path"]) for item in record.get("outputs", [])],
        startTime=started(record),
        endTime=ended(record),
        actionStatus=COMPLETED,
        resourceUsage=_costs(graph, job),
        containerImage=_container(graph, record.get("container")),
        subjectOf=files.result(f"records/{job.name}.json"),
    )
    return action, tool


def _input(files: Files, item: dict[str, Any]) -> dict[str, str]:
    """Describe what a job read: a file from outside as the job saw it, a result as it is now."""
    outside = files.inside(item["path"]) is None and "size" in item
    return files.add(item["path"], seen=Seen(item["size"], item["mtime_ns"]) if outside else None)


def started(record: dict[str, Any], after_s: float = 0.0) -> str:
    """When a job started, or a while later."""
    return moment(calendar.timegm(time.strptime(record["started"], "%Y-%m-%dT%H:%M:%SZ")) + after_s)


def ended(record: dict[str, Any]) -> str:
    """When a job ended, from its start and its wall time."""
    return started(record, float(record.get("wall_s", 0.0)))


def environment_of(record: dict[str, Any]) -> dict[str, Any]:
    """What of a record decides, beside settings and input, which last digits come out."""
    return {name: record.get(name) for name in _ENVIRONMENT}


def _tool(graph: Graph, job: Job, parameters: list[dict[str, str]]) -> dict[str, str]:
    """Describe the step as a program in the environment where it ran."""
    record, environment = job.record, environment_of(job.record)
    commit = record.get("commit")
    edited = {True: ", edited since", False: "", None: ", not known whether edited"}[record.get("dirty")]
    gpu = (
        f"{record['gpu']} (driver {record.get('driver')}, CUDA {record.get('cuda')})"
        if record.get("gpu")
        else "no GPU"
    )
    libraries = [
        graph.add(
            f"https://pypi.org/project/{name}/{version}/",
            "SoftwareApplication",
            name=name,
            softwareVersion=version,
            url=f"https://pypi.org/project/{name}/",
        )
        for name, version in (record.get("libraries") or {}).items()
        if version
    ]
    return graph.add(
        f"#tool/{job.step}/{_short(environment)}",
        "SoftwareApplication",
        name=f"emflow {job.step.replace('.', ' ')}",
        softwareVersion=f"{record.get('emflow')}, step version {record.get('step_version')}"
        + (f", commit {commit}{edited}" if commit else ""),
        runtimePlatform=f"Python {record.get('python')}",
        operatingSystem=record.get("system"),
        processorRequirements=f"{record.get('processor')} ({record.get('machine')}); {gpu}; "
        f"device asked for: {record.get('device')}",
        softwareRequirements=libraries,
        input=parameters,
    )


def _settings(graph: Graph, job: Job) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Describe a job's settings, shared by jobs of equal ones: the formal parameters, and their values."""
    settings = job.record.get("settings") or {}
    parameters, values = [], []
    for key, value in settings.items():
        text = value if isinstance(value, str) else json.dumps(value)
        identity = f"#value/{job.step}/{key}/{_short(value)}"
        parameter = graph.add(
            f"#parameter/{job.step}/{key}",
            "FormalParameter",
            name=key,
            additionalType="Text" if isinstance(value, str) else _type(value),
            conformsTo=ref(PARAMETER_PROFILE),
            valueRequired="False",
            workExample=[],
        )
        graph.add(identity, "PropertyValue", name=key, value=text or '""', exampleOfWork=parameter)
        examples = graph.entities[parameter["@id"]].setdefault("workExample", [])
        if ref(identity) not in examples:
            examples.append(ref(identity))
        parameters.append(parameter)
        values.append(ref(identity))
    return parameters, values


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "Boolean"
    return {int: "Integer", float: "Float"}.get(type(value), "Text")


def _costs(graph: Graph, job: Job) -> list[dict[str, str]]:
    return [
        graph.add(
            f"#cost/{job.name}/{key}", "PropertyValue", propertyID=key, name=name, value=str(job.record[key]), unitCode=unit
        )
        for key, (name, unit) in _COSTS.items()
        if job.record.get(key) is not None
    ]  # fmt: skip


def _weights(graph: Graph, files: Files, job: Job) -> dict[str, str]:
    """Describe the weights that a job used: somebody's file, or those that emflow ships."""
    digest, own = str(job.record["weights"]), (job.record.get("settings") or {}).get("weights")
    about = {
        "description": "Weights of the network that the step used.",
        "encodingFormat": "application/x-safetensors",
    }
    if own and files.place(own).exists():
        return files.add(own)
    return graph.add(
        f"#weights/{digest[:16]}",
        "CreativeWork",
        name=own or "weights shipped with emflow",
        sha256=digest,
        **about,
    )


def _container(graph: Graph, image: str | None) -> dict[str, str] | None:
    if not image or image == "yes":
        return None
    return graph.add(
        f"#container/{_short(image)}",
        "ContainerImage",
        name=image,
        additionalType=ref("https://w3id.org/ro/terms/workflow-run#SIFImage"),
    )


def _short(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

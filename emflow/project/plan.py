"""What a run would do, and why, in words."""

from __future__ import annotations

import ast
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emflow.step import EmflowError


@dataclass
class Step:
    """Jobs of one rule: how many there are, how many would run, and why."""

    rule: str
    jobs: int = 0
    to_run: int = 0
    reasons: list[str] = field(default_factory=list)


def plan_run(
    configfiles: Iterable[Path],
    config: Mapping[str, Any],
    snakefile: Path = Path("Snakefile"),
    look: Callable[[Any], object] | None = None,
) -> list[Step]:
    """Plan a run without starting it or writing anything to the project.

    Parameters
    ----------
    look
        Called with Snakemake's workflow once its graph of jobs is there.

    Returns
    -------
    The steps in the order of the chain.

    Raises
    ------
    EmflowError
        If there is no Snakefile here, or Snakemake cannot plan.
    """
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import (
        ConfigSettings,
        DAGSettings,
        OutputSettings,
        Quietness,
        ResourceSettings,
    )

    if not snakefile.exists():
        raise EmflowError(f"No {snakefile} in {Path.cwd()}: run this where emflow's Snakefile is.")
    # With exactly these two kinds of quiet, a dry run of Snakemake ends once it knows what it would do.
    output = OutputSettings(
        dryrun=True, quiet={Quietness.RULES, Quietness.PROGRESS}, log_level_override=logging.ERROR,
        enable_file_logging=False,
    )  # fmt: skip
    with SnakemakeApi(output) as api:
        try:
            workflow = api.workflow(
                resource_settings=ResourceSettings(),
                config_settings=ConfigSettings(config=dict(config), configfiles=list(configfiles)),
                snakefile=snakefile,
            )
            chart = workflow.dag(DAGSettings(force_incomplete=True, max_checksum_file_size=0))
            chart.execute_workflow(executor="dryrun")
        except Exception as error:
            raise EmflowError(f"Snakemake cannot plan: {error}") from error
        if look is not None:
            look(workflow._workflow)
        return _steps(workflow._workflow.dag)


def _steps(dag: Any) -> list[Step]:
    steps: dict[str, Step] = {}
    waiting = set(dag.needrun_jobs())
    for level in dag.toposorted():
        for job in level:
            if not job.output:
                continue
            step = steps.setdefault(job.rule.name, Step(job.rule.name))
            step.jobs += 1
            if job in waiting:
                step.to_run += 1
                for reason in _reasons(job, dag, waiting):
                    if reason not in step.reasons:
                        step.reasons.append(reason)
    return list(steps.values())


def _reasons(job: Any, dag: Any, waiting: set[Any]) -> list[str]:
    why = dag.reason(job)
    if why.missing_output and not any(Path(path).exists() for path in job.output) and not why.params_changed:
        return ["never made yet"]
    found = []
    if why.forced:
        found.append("asked for by force")
    if why.params_changed:
        found.append(changed_settings(why.params_changed.only_old, why.params_changed.only_new))
    if why.code_changed:
        found.append("its rule changed")
    if why.software_stack_changed:
        found.append("its software environment changed")
    if why.incomplete_output:
        found.append("it was interrupted")
    behind = sorted(
        {other.rule.name.replace("_", " ") for other in dag.dependencies[job] if other in waiting}
    )
    if behind:
        found.append(f"follows {_few(behind)}")
    elif why.missing_output:
        found.append("a result is missing")
    if not behind and (why.input_changed or why.updated_input):
        names = sorted(Path(path).name for path in (why.updated_input or job.input))
        found.append(f"new or changed input ({_few(names)})")
    return found or [str(why)]


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def changed_settings(old: Iterable[str], new: Iterable[str]) -> str:
    """Say which settings changed, from the params before and now as Snakemake keeps them (their ``repr``)."""
    before, now = _settings(old), _settings(new)
    changed = []
    for key in sorted(before.keys() | now.keys()):
        if key in before and key in now and before[key] == now[key]:
            continue
        if key == "version":
            changed.append(
                f"this version of emflow does the step differently (step version {before.get(key)} → {now.get(key)})"
            )
        elif key == "restart":
            changed.append("a restart was asked for")
        elif key == "reader":
            changed.append("picking looks at its images with other settings")
        elif key != "free":  # changes with picking's own settings
            changed.append(f"{key} {_value(before, key)} → {_value(now, key)}")
    return "changed: " + (", ".join(changed) or "its parameters")


def _settings(params: Iterable[str]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for text in params:
        try:
            content = json.loads(ast.literal_eval(text))
        except (ValueError, SyntaxError, TypeError):
            continue
        if isinstance(content, dict):
            merged |= content
    return merged


def _value(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key], ensure_ascii=False) if key in settings else "(unset)"


def in_words(steps: list[Step]) -> str:
    """Return the plan as text."""
    running = [step for step in steps if step.to_run]
    total = sum(step.jobs for step in steps)
    if not running:
        return f"Nothing to be done: all {total} jobs are up to date."
    done = total - sum(step.to_run for step in running)
    lines = [f"{sum(step.to_run for step in running)} of {total} jobs would run; {done} are up to date.", ""]
    width = max(len(step.rule) for step in running)
    lines += [
        f"  {step.rule.replace('_', ' '):{width}}  {step.to_run:>4} of {step.jobs:<4}  {'; '.join(step.reasons)}"
        for step in running
    ]
    return "\n".join(lines)

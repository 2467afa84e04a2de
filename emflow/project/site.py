"""The cluster as a site has it: one small file that its user writes, or what SLURM says of itself.

The SLURM profile opens the site; the Snakefile fits to it what the rules ask for: a partition, and no more
memory, time and threads than that partition allows.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from pydantic import Field

from emflow.config import build, read_yaml
from emflow.project.slurm_states import heed_cancelled_jobs
from emflow.step import EmflowError, StepConfig

PLACES = (Path("site.yaml"), Path("~/.config/emflow/site.yaml"), Path("/etc/emflow/site.yaml"))
"""Where a site file is looked for, the first wins: the project's, the user's, the facility's."""

_HANDED_ON = "EMFLOW_SITE"
"""Environment variable with the site (JSON): jobs see what the run began with, whatever is edited meanwhile."""

_unanswered: list[str] = []
"""Why SLURM could not be asked when the profile was read."""


class Partition(StepConfig):
    """What one job may ask of a partition."""

    max_hours: float | None = Field(None, gt=0)
    """Longest runtime of a job, in hours; left out where there is no limit."""
    max_memory_gb: float | None = Field(None, gt=0)
    """Memory of one node, in gigabyte."""
    max_threads: int | None = Field(None, gt=0)
    """Cores of one node."""
    gpus: int = Field(0, ge=0)
    """GPUs of one node. GPU jobs go where this is set; other jobs where it is not, if there is such a partition."""
    gpu_type: str | None = Field(None, pattern=r"^[A-Za-z0-9_.]+$")
    """GRES type to ask for (a100 of gpu:a100:4), where GPUs are of several types; without hyphens."""


class Site(StepConfig):
    """What differs from cluster to cluster."""

    account: str | None = None
    """Account that jobs are charged to; left out, your default one."""
    qos: str | None = None
    """Quality of service, where the site asks for one."""
    extra: str | None = Field(None, min_length=1)
    """Further arguments of sbatch, such as --exclude=node7 or --mail-type=FAIL."""
    scratch: str | None = Field(None, pattern=r"^[/$]")
    """Folder for temporary files on a node, such as /scratch/$USER; left out, TMPDIR of the job."""
    jobs: int = Field(200, gt=0)
    """Most jobs queued or running at a time."""
    partitions: dict[str, Partition] = {}
    """Partitions to use. A job goes to the first that allows what it asks for."""

    def choose(self, gpus: int, threads: int, mem_mb: int, minutes: int) -> tuple[str | None, Partition]:
        """Return the partition for a job: the first that has room, else the roomiest of its kind."""
        gpus = min(gpus, max((part.gpus for part in self.partitions.values()), default=gpus))
        kind = {name: part for name, part in self.partitions.items() if bool(part.gpus) == bool(gpus)}
        kind = kind or self.partitions
        for name, part in kind.items():
            if (
                minutes <= _minutes(part)
                and mem_mb <= _mem_mb(part)
                and threads <= (part.max_threads or threads)
                and gpus <= part.gpus
            ):
                return name, part
        if not kind:
            return None, Partition(gpus=gpus)
        return max(kind.items(), key=lambda item: (_minutes(item[1]), _mem_mb(item[1])))


def _minutes(part: Partition) -> float:
    return max(1, int(part.max_hours * 60)) if part.max_hours else float("inf")


def _mem_mb(part: Partition) -> float:
    return int(part.max_memory_gb * 1000) if part.max_memory_gb else float("inf")


def load_site(path: Path) -> Site:
    """Read a site file.

    Raises
    ------
    EmflowError
        Naming the file, the key, what is allowed, and the nearest right key.
    """
    try:
        content = read_yaml(path)
        given = content.get("partitions") or {}
        if not isinstance(given, dict):
            raise EmflowError(f"partitions: expected names of partitions with their limits, found {given!r}.")
        partitions = {str(name): build(Partition, own, f"partitions.{name}") for name, own in given.items()}
        return build(Site, {**content, "partitions": partitions}, "")
    except EmflowError as error:
        raise EmflowError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None


def find_site() -> Path | None:
    """Return the site file that holds here, if there is one."""
    return next((path for path in map(Path.expanduser, PLACES) if path.is_file()), None)


def open_site() -> Site:
    """Return the site of this run, and hand it on to the Snakefile and the jobs; called by the SLURM profile.

    Without a site file, SLURM is asked, and what it said is shown. Where it does not answer, a plan can be made
    all the same; a run is stopped by the Snakefile.
    """
    from emflow.project.guess import guess_site, in_words, partition_names

    path = find_site()
    try:
        site = load_site(path) if path else Site()
    except EmflowError as error:
        _stop(str(error))
    try:
        if path is None:
            site = guess_site().site
            print(f"emflow: no site.yaml; {in_words(site)}. `emflow init` writes this down.", file=sys.stderr)
        else:
            _check_names(site, path, partition_names())
    except EmflowError as error:
        _unanswered.append(str(error))
    if site.partitions and not any(part.gpus for part in site.partitions.values()):
        print("emflow: no partition of this site has GPUs: GPU steps run on the CPU.", file=sys.stderr)
    os.environ[_HANDED_ON] = site.model_dump_json()
    return site


def _check_names(site: Site, path: Path, known: list[str]) -> None:
    for name in site.partitions:
        wrong = [part for part in name.split(",") if part not in known]
        if wrong:
            _stop(
                f"{path}: partitions.{name}: SLURM has no partition {wrong[0]} here. It has {', '.join(known)}."
            )


def _stop(message: str) -> NoReturn:
    print(f"emflow: {message}", file=sys.stderr)
    raise SystemExit(2) from None


def fit_to_site(workflow: Any) -> None:
    """Give the rules of a Snakemake workflow their partition, and cut what they ask for to its limits.

    Does nothing unless the SLURM profile opened a site. What was set by hand (``--set-resources``) wins.
    """
    handed = os.environ.get(_HANDED_ON)
    if handed is None:
        return
    if workflow.is_main_process and not workflow.output_settings.dryrun:
        if _unanswered:
            _stop(_unanswered[0])
        heed_cancelled_jobs()
    site = Site.model_validate_json(handed)
    for rule in workflow.rules:
        _fit(rule.resources, site)


def _fit(resources: Any, site: Site) -> None:
    asked = dict(resources.items())

    def number(name: str, wildcards: Any, known: dict[str, Any]) -> int:
        if name not in asked:
            return 0
        value = asked[name].evaluate(wildcards, **known).value
        return value if isinstance(value, int) else 0

    def chosen(wildcards: Any, known: dict[str, Any]) -> tuple[str | None, Partition]:
        if "slurm_partition" in asked:  # set by hand
            name = asked["slurm_partition"].evaluate(wildcards, **known).value
            return name, site.partitions.get(name, Partition(gpus=number("gpu", wildcards, known)))
        known = {"threads": number("_cores", wildcards, known), **known}
        gpus, mem_mb, minutes = (number(name, wildcards, known) for name in ("gpu", "mem_mb", "runtime"))
        return site.choose(gpus, known["threads"], mem_mb, minutes)

    def partition(wildcards: Any, **known: Any) -> str | None:
        return chosen(wildcards, known)[0]

    def gpu_model(wildcards: Any, **known: Any) -> str | None:
        return chosen(wildcards, known)[1].gpu_type if number("gpu", wildcards, known) else None

    def at_most(name: str, limit: Any) -> Any:
        def cut(wildcards: Any, **known: Any) -> int:
            return int(min(number(name, wildcards, known), limit(chosen(wildcards, known)[1])))

        return cut

    limits = {
        "mem_mb": _mem_mb,
        "runtime": _minutes,
        "_cores": lambda part: part.max_threads or float("inf"),
        "gpu": lambda part: part.gpus,
    }
    for name, limit in limits.items():
        if name in asked:
            resources[name] = at_most(name, limit)
    resources["slurm_partition"] = partition
    if "gpu" in asked:
        resources.setdefault("gpu_model", gpu_model)
        resources.setdefault("nodes", 1)  # several GPUs of one job are of one node
    if site.scratch:
        scratch = site.scratch
        resources["tmpdir"] = lambda wildcards: os.path.expandvars(scratch)  # on the node that runs the job

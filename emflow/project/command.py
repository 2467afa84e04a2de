"""Commands about a project as a whole; each is one word."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from emflow.step import EmflowError


def init(
    micrographs: str | None = None, out: Path = Path("emflow.yaml"), /, *, project: str | None = None
) -> None:
    """Write a commented configuration for a folder of micrographs, and site.yaml on a cluster.

    Where there is SLURM and no site file yet, site.yaml is written from what SLURM says of itself: partitions,
    their limits and GPUs, your account. Neither file is ever overwritten.

    Parameters
    ----------
    micrographs
        Folder, glob (in quotes) or list of micrographs; without it, only site.yaml is written.
    out
        Configuration to write.
    project
        Name of the project; by default the folder's.
    """
    from emflow.project.guess import write_site
    from emflow.project.site import PLACES, find_site
    from emflow.project.start import write_configuration

    if micrographs is not None:
        print(write_configuration(micrographs, out, project))
    known = find_site()
    if known is None and (micrographs is None or shutil.which("sinfo")):
        try:
            print(write_site(PLACES[0]))
        except (
            EmflowError
        ) as error:  # the configuration is written: a cluster that is away can be described later
            if micrographs is None:
                raise
            print(f"{error} No {PLACES[0]} was written; `emflow init` alone writes it.")
    elif micrographs is None:
        raise EmflowError(
            f"{known} describes this cluster already and is not overwritten; remove it for a new guess."
        )


def plan(
    configfile: Path | None = None,
    /,
    *changes: str,
    cores: int | None = None,
    jobs: int | None = None,
    gpus: int | None = None,
) -> None:
    """Say in words what a run would do and why, and what it would cost. Nothing is started or written.

    Parameters
    ----------
    configfile
        Configuration of the run, as given to snakemake's --configfile.
    changes
        Further settings as given to snakemake's --config: input=FOLDER, or ctf='{fit: {patch_size: 256}}'.
    cores
        Reckon the wall time with so many cores; by default those of this machine.
    jobs
        Reckon it with so many jobs at once, each with its own cores, as on a cluster.
    gpus
        Reckon it with so many GPUs; by default those of this machine.
    """
    from emflow.project.estimate import estimate, in_figures, this_machine
    from emflow.project.plan import in_words, plan_run
    from emflow.project.schedule import Slots

    config = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise EmflowError(f"{change}: expected KEY=VALUE, such as input=FOLDER.")
        config[key] = yaml.safe_load(value)
    here = this_machine()
    slots = Slots(cores or (None if jobs else here.cores), jobs, here.gpus if gpus is None else gpus)
    costs: list[str] = []
    steps = plan_run(
        [configfile] if configfile else [],
        config,
        look=lambda workflow: costs.append(in_figures(estimate(workflow, slots))),
    )
    print("\n\n".join(text for text in (in_words(steps), *costs) if text))


def restart(project: str, /, *stages: str) -> None:
    """Have stages that pool all particles begin anew at the next run, and what follows them: from no earlier result.

    Parameters
    ----------
    project
        Name of the project.
    stages
        classify, abinitio, refine, heterogeneity: one or more.
    """
    from emflow.project.memory import ask_restart
    from emflow.project.stages import STAGES

    wrong = [stage for stage in stages if stage not in STAGES]
    if wrong or not stages:
        raise EmflowError(f"{', '.join(wrong) or 'restart'}: give one or more of {', '.join(STAGES)}.")
    ask_restart(_folder(project), [STAGES[stage].step for stage in stages])
    print(f"{', '.join(stages)}: will begin anew at the next run of {project}.")


def upgrade(project: str, /, *steps: str) -> None:
    """Take the versions of this emflow for steps that the project keeps as they were; the next run makes them again.

    Parameters
    ----------
    project
        Name of the project.
    steps
        Steps such as ctf.fit; by default all.
    """
    from emflow.config import load_settings
    from emflow.project.memory import upgrade_steps

    folder = _folder(project)
    changed = upgrade_steps(folder, load_settings(folder / "settings.yaml"), steps)
    print(f"Upgraded: {', '.join(changed)}." if changed else "Every step has the version of this emflow.")


def _folder(project: str) -> Path:
    folder = Path("results") / project
    if not (folder / "settings.yaml").is_file():
        raise EmflowError(f"{folder}: no such project in {Path.cwd()}, or it has never run.")
    return folder


def unlock(project: str | None = None, /) -> None:
    """Remove the lock that a killed run left, if no process and no queued job of the project is left.

    Parameters
    ----------
    project
        Name of the project; by default every project under results/.
    """
    from emflow.project.unlock import unlock_project

    if project is not None and not (Path("results") / project).is_dir():
        raise EmflowError(f"results/{project}: no such project in {Path.cwd()}.")
    projects = (
        [project] if project else sorted(path.name for path in Path("results").glob("*") if path.is_dir())
    )
    removed = {name: unlock_project(name) for name in projects}
    locked = [name for name, locks in removed.items() if locks]
    print(f"Unlocked: {', '.join(locked)}." if locked else "Nothing was locked.")


def doctor(*, json: bool = False) -> None:
    """Check this machine: device, driver, scheduler, disk, clock, permissions, libraries, weights.

    Parameters
    ----------
    json
        Print the findings as JSON, for other programs.
    """
    from emflow.project.doctor import as_json, examine, in_words

    findings = []
    for finding in examine():
        findings.append(finding)
        if not json:
            print(in_words(finding), flush=True)
    if json:
        print(as_json(findings))
    if any(finding.state == "fail" for finding in findings):
        raise EmflowError("this machine is not ready; see what to do above.")

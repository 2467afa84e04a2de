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
        print(write_site(PLACES[0]))
    elif micrographs is None:
        raise EmflowError(
            f"{known} describes this cluster already and is not overwritten; remove it for a new guess."
        )


def plan(configfile: Path | None = None, /, *changes: str) -> None:
    """Say in words what a run would do, and why. Nothing is started or written.

    Parameters
    ----------
    configfile
        Configuration of the run, as given to snakemake's --configfile.
    changes
        Further settings as given to snakemake's --config: input=FOLDER, or ctf='{fit: {patch_size: 256}}'.
    """
    from emflow.project.plan import in_words, plan_run

    config = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise EmflowError(f"{change}: expected KEY=VALUE, such as input=FOLDER.")
        config[key] = yaml.safe_load(value)
    print(in_words(plan_run([configfile] if configfile else [], config)))


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


def doctor() -> None:
    """Check this machine: device, driver, scheduler, disk, permissions, libraries."""
    from emflow.project.doctor import examine

    failed = False
    for finding in examine():
        print(f"{finding.state:>4}  {finding.what}: {finding.found}")
        for label, text in (("so", finding.consequence), ("do", finding.action)):
            if text:
                print(f"      {label}: {text}")
        failed |= finding.state == "fail"
    if failed:
        raise EmflowError("this machine is not ready; see what to do above.")

"""Commands that keep a run's record, and repeat the run from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from emflow.step import EmflowError


def record(
    project: Path, /, *, digest_images: bool = False, licence: str | None = None, zip: Path | None = None
) -> None:
    """Write a run's record as an RO-Crate (Provenance Run Crate): ro-crate-metadata.json in the project's folder.

    Parameters
    ----------
    project
        Folder of a project's results, such as results/demo.
    digest_images
        Digest micrographs, half sums and particle stacks too: reads all of them. By default they are told by name,
        size and time.
    licence
        Licence of the results, best as an address.
    zip
        Also write a zip of the record without data: settings, lists of micrographs, records, metrics, the page.
    """
    from emflow.project.crate import write_crate
    from emflow.project.past_run import read_past_run
    from emflow.project.place import find_snakefile

    past = read_past_run(project)
    path = write_crate(past, find_snakefile(), pixels=digest_images, licence=licence, archive=zip)
    print(f"{path}: {len(past.jobs)} jobs")


def reproduce(
    record: Path,
    /,
    *,
    into: Path | None = None,
    steps: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    cores: int | None = None,
    profile: str = "profiles/local",
    anyway: bool = False,
) -> None:
    """Repeat a run from its record in a new folder, and compare every result. Exit code 1 where one differs.

    Parameters
    ----------
    record
        Project's folder (results/demo), its ro-crate-metadata.json, or a zip from emflow record --zip.
    into
        Folder for the rerun; by default reproduced-PROJECT here. Must be empty or new.
    steps
        Repeat only these steps and what they need: --steps session.check ctf.fit.
    cores
        Cores to use; by default as many as the largest job had, if this machine has them.
    profile
        Snakemake profile, such as slurm.
    anyway
        Go on although inputs are not what they were.
    """
    from emflow.project import reproduce as again
    from emflow.project.past_crate import open_record
    from emflow.project.place import find_snakefile
    from emflow.project.rerun import prepare, run

    crate = open_record(record)
    rules = again.rules_of(crate.past, steps or [])
    changed = crate.gone_or_changed()
    if changed and not anyway:
        listed = "\n  ".join(changed[:20]) + (
            f"\n  and {len(changed) - 20} more" if len(changed) > 20 else ""
        )
        raise EmflowError(
            f"inputs are not what they were:\n  {listed}\nBring them back, or add --anyway to see what follows."
        )
    tampered = crate.tampered()
    work = prepare(crate.past, into or Path(f"reproduced-{crate.past.name}"), find_snakefile())
    print(f"Repeating {crate.past.name} in {work}; Snakemake's log is {work / 'snakemake.log'}.", flush=True)
    code = run(work, rules, cores or again.cores_of(crate.past), profile)
    if code:
        raise EmflowError(f"the rerun failed (exit code {code}); see {work / 'snakemake.log'}.")
    repeated = again.read_again(work, crate.past)
    compared = again.compare_runs(crate, repeated)
    print("\n".join(again.in_words(compared, crate, repeated)))
    for name in tampered:
        print(f"! {record}: {name} was changed after the record was made.")
    for line in changed:
        print(f"! input {line}")
    if tampered or changed or not again.succeeded(compared):
        print("\nNot reproduced.")
        raise SystemExit(1)
    print("\nReproduced.")

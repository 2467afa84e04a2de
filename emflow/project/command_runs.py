"""Commands about whole runs beside each other: free room, branch, compare."""

from __future__ import annotations

from pathlib import Path

from emflow.step import EmflowError


def clean(project: str, /, *what: str, yes: bool = False) -> None:
    """List what of a project can be made again, with its size; with --yes, remove it.

    Parameters
    ----------
    project
        Name of the project.
    what
        denoised, stacks, checkpoints or leftovers; by default all.
    yes
        Remove what is listed. Nothing outside results/PROJECT is touched.
    """
    from emflow.project.clean import find_waste, remove
    from emflow.project.estimate import size

    kinds = ("denoised", "stacks", "checkpoints", "leftovers")
    unknown = [name for name in what if name not in kinds]
    if unknown:
        raise EmflowError(f"{unknown[0]}: no such kind; expected {', '.join(kinds)}.")
    found = [waste for waste in find_waste(project) if not what or waste.name in what]
    if not found:
        print("Nothing can be freed.")
        return
    for waste in found:
        shared = f" (and {size(waste.shared_bytes)} that a branch shares)" if waste.shared_bytes else ""
        print(
            f"{waste.name:11}  {size(waste.freed_bytes):>8}{shared}  {len(waste.paths)} files: {waste.about}"
        )
    if yes:
        print(f"Freed {size(remove(project, found))} below {Path('results') / project}.")
    else:
        print(f"Nothing was removed; `emflow clean {' '.join([project, *what])} --yes` does.")


def branch(project: str, name: str, /, *changes: str) -> None:
    """Make a run under other settings beside a project, sharing on disk all that is equal.

    Parameters
    ----------
    project
        Name of the project; it must not be running.
    name
        Name of the branch: results/NAME, with the configuration NAME.yaml.
    changes
        Settings that differ: heterogeneity.analyze.volumes=9, or ctf='{fit: {patch_size: 256}}'.
    """
    from emflow.project.branch import make_branch
    from emflow.project.estimate import size

    made = make_branch(project, name, changes)
    print(
        f"results/{name}: {made.linked} files shared with results/{project} ({size(made.linked_bytes)}), "
        f"{made.written} of its own ({size(made.written_bytes)}). Its settings: {made.configuration}.\n"
        f"  emflow plan {made.configuration}\n"
        f"  snakemake --profile profiles/local --configfile {made.configuration}"
    )


def diff(a: str, b: str, /, *, page: Path | None = None, maps: bool = True) -> None:
    """Compare two projects: settings, figures, verdicts and refined maps.

    Parameters
    ----------
    a, b
        Names of projects, or their folders.
    page
        HTML page to write as well, with the FSC between the maps and sections of both.
    maps
        Compare the maps, too; the rest takes a second.
    """
    from emflow.config import load_settings
    from emflow.project.diff import compare, in_words

    one, other = (Path(name) if Path(name).is_dir() else Path("results") / name for name in (a, b))
    found = compare(one, other)
    text, compared = in_words(found), None
    if maps:
        from emflow.project.diff_maps import compare_maps

        symmetry = load_settings(one / "settings.yaml").sample.symmetry
        compared = compare_maps(one, other, symmetry)
        said = [compared] if isinstance(compared, str) else compared.said
        text += "\n\nMaps\n" + "\n".join(f"  {line}" for line in said)
    print(text)
    if page is not None:
        from emflow.project.diff_page import write_page

        write_page(page, found, compared)
        print(f"\n{page} shows the same.")

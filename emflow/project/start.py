"""A first configuration for somebody's micrographs."""

from __future__ import annotations

import re
from pathlib import Path

from emflow.config import Settings
from emflow.io.atomic import write_text
from emflow.io.listing import list_images
from emflow.project.generate import comment
from emflow.step import EmflowError, Sample

_ASK = (
    "pixel_size_angstrom",
    "voltage_kv",
    "cs_mm",
    "amplitude_contrast",
    "diameter_angstrom",
    "symmetry",
    "contrast",
)


def write_configuration(
    micrographs: str, out: Path, project: str | None = None, *, may_be_empty: bool = False
) -> str:
    """Write a commented configuration for a folder of micrographs; return what to do next.

    With ``may_be_empty`` the micrographs need not be there yet.

    Raises
    ------
    EmflowError
        If no image is found there, or the file exists.
    """
    if out.exists():
        raise EmflowError(
            f"{out} exists and is not overwritten. Give another name: emflow init FOLDER NAME.yaml"
        )
    images = list_images(micrographs)
    if not images and not may_be_empty:
        raise EmflowError(f"{micrographs}: no MRC or TIFF image found. Give a folder, or a glob in quotes.")
    name = project or _project_name(micrographs)
    pattern = str(Settings.model_fields["project"].metadata[0].pattern)
    if not re.match(pattern, name):
        raise EmflowError(
            f"{name}: a project's name has letters, digits, '_', '-' and '.', a letter or digit first."
        )
    write_text(out, _text(micrographs, name, len(images)))
    return (
        f"{out}: project {name}, {len(images)} micrographs. Fill in pixel_size_angstrom and diameter_angstrom, then:\n"
        f"  emflow plan {out}\n"
        f"  snakemake --profile profiles/local --configfile {out}"
    )


def _project_name(micrographs: str) -> str:
    parts = [part for part in Path(micrographs).resolve().parts if not re.search(r"[*?\[]", part)]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", parts[-1].rsplit(".", 1)[0]).strip("-.")
    return name or "project"


def _text(micrographs: str, name: str, count: int) -> str:
    defaults = Sample()
    lines = [
        f"# Configuration of emflow for {count} micrographs. Every other key, with its meaning and default:",
        "# config/default.yaml. What is not written here keeps its default.",
        f"project: {name}",
        "input:",
        f"  micrographs: {micrographs!r}",
        "sample:",
    ]
    for key in _ASK:
        value = getattr(defaults, key)
        lines += comment(Sample.model_fields[key].description or "", 2)
        lines.append(f"  {key}:  # fill in" if value is None else f"  {key}: {value}")
    return "\n".join(lines) + "\n"

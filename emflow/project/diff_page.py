"""The comparison of two projects as one HTML page that needs nothing else."""

from __future__ import annotations

from pathlib import Path

import emflow.report
from emflow.figure import png_bytes
from emflow.io.atomic import write_text
from emflow.project.diff import Difference, value_text
from emflow.project.diff_maps import MapsCompared, draw_maps
from emflow.report.embed import data_uri
from emflow.report.page import templates_of


def write_page(path: Path, found: Difference, maps: MapsCompared | str | None) -> None:
    """Write the page; names and values from the projects are escaped."""
    environment = templates_of(Path(__file__).parent)
    environment.filters["value"] = value_text
    if isinstance(maps, MapsCompared):
        said, picture = maps.said, data_uri(png_bytes(draw_maps(maps)), "png")
    else:
        said, picture = [maps or "The maps were not compared."], ""
    text = environment.get_template("diff.html").render(
        found=found,
        tables=[("Settings", found.settings), ("Figures", found.figures), ("Verdicts", found.verdicts)],
        said=said,
        picture=picture,
        style=_style(),
    )
    write_text(path, text)


def _style() -> str:
    """Return the report's style sheet: the pages look alike."""
    return (Path(emflow.report.__file__).parent / "page.css").read_text(encoding="utf-8")

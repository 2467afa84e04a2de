"""Settings of the pick room's tools: scoring, and other programs' files."""

from typing import ClassVar

from pydantic import Field

from emflow.step import StepConfig


class PickScore(StepConfig):
    """Compare picks with known positions."""

    version: ClassVar[int] = 2
    radius_px: float = Field(15.0, gt=0, le=10000)
    """A pick is true within this distance of a position that no better pick has taken, in pixels."""
    threshold: float | None = None
    """Lowest rlnAutopickFigureOfMerit (for other tables: score) that counts as picked; null: all that the table holds
    was picked. Curves use all of them either way."""


class PickExport(StepConfig):
    """Write picks for another program."""

    format: str = Field("star", pattern=r"^(star|relion|relion-manual|box|csv|topaz)$")
    """star: one RELION table; relion: one NAME_autopick.star a micrograph and their list autopick.star; relion-manual: the
    same as NAME_manualpick.star and manualpick.star; box: one NAME.box a micrograph (EMAN); csv: one table; topaz: one text
    table."""
    box_px: int = Field(256, ge=2, le=4096)
    """Size of the boxes in EMAN's files, in pixels; even."""
    min_figure: float | None = None
    """Lowest rlnAutopickFigureOfMerit that is written; null: all."""

"""Settings of the pick room's tools: scoring, and other programs' files."""

from typing import ClassVar

from pydantic import Field

from emflow.step import OpticsFacts, SpecimenContrast, SpecimenSize, StepConfig


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


class PickTrain(OpticsFacts, SpecimenSize, SpecimenContrast):
    """Learn to pick from some labelled particles, without examples of what is none."""

    seed: int = Field(0, ge=0)
    """Seed of everything random: same settings, same weights."""
    widths: tuple[int, ...] = (12, 20, 32)
    """Channels of the network's levels."""
    steps: int = Field(160, ge=2, le=100000)
    """Steps of the training of each of the three networks."""
    batch: int = Field(16, ge=2, le=1024)
    """Crops of a step, half of them around labels."""
    crop_px: int = Field(64, ge=32, le=512, multiple_of=16)
    """Side of a crop, in pixels of which 16 are the particle's diameter."""
    learning_rate: float = Field(4e-3, gt=0, le=1)
    """Highest learning rate."""
    max_micrographs: int = Field(16, ge=1, le=1000)
    """Most micrographs that are learned from: those with most labels, then others, spread over the table."""
    mask_contamination: bool = True
    """Leave out carbon edges, ice and aggregates, as pick.apply does."""


class PickConsensus(StepConfig):
    """Join the picks of several pickers, and say from their agreement how likely each is."""

    distance_px: float | None = Field(None, gt=0, le=10000)
    """Farthest that picks of one particle are apart, in pixels; must be given. A third of the diameter is usual."""
    min_probability: float = Field(0.5, ge=0, le=1)
    """Lowest probability that is written."""

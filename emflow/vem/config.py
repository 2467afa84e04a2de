"""Settings of the vem room."""

from pydantic import Field

from emflow.step import StepConfig


class VemTrain(StepConfig):
    """Learn to fill the gaps between slices from the measured slices alone."""

    seed: int = Field(0, ge=0)
    """Seed of the first weights and the crops."""
    steps: int = Field(500, gt=0, le=1000000)
    """Training steps."""
    batch: int = Field(12, gt=0, le=4096)
    """Crops in a step."""
    crop_px: int = Field(96, ge=16, le=1024, multiple_of=8)
    """Width of a crop, in pixels."""
    learning_rate: float = Field(8e-4, gt=0, le=1)
    """Highest learning rate of Adam; it rises over the first twentieth of the steps and falls to 0."""
    coverage: float = Field(0.9, gt=0.5, lt=1)
    """Share of true values that the interval shall hold."""


STEPS: dict[str, type[StepConfig]] = {"train": VemTrain}

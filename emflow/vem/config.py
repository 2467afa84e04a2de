"""Settings of the vem room."""

from pydantic import Field

from emflow.step import StepConfig
from emflow.vem.config_images import VemDenoise, VemTrainImages


class VoxelSize(StepConfig):
    """Distances of the voxels."""

    voxel_nm: tuple[float, float, float] | None = None
    """Distance of voxels along z, y, x, in nanometre; null takes the file's, and without one the step stops."""


class VemTrain(VoxelSize):
    """Learn to fill the gaps between slices from the measured slices alone."""

    seed: int = Field(0, ge=0)
    """Seed of the first weights and the crops."""
    steps: int = Field(500, gt=0, le=1000000)
    """Training steps."""
    batch: int = Field(12, gt=0, le=4096)
    """Crops in a step."""
    crop_px: int = Field(96, ge=16, le=1024, multiple_of=8)
    """Width of a crop, in pixels."""
    learning_rate: float = Field(2e-3, gt=0, le=1)
    """Highest learning rate of Adam; it rises over the first twentieth of the steps and falls to 0."""
    coverage: float = Field(0.9, gt=0.5, lt=1)
    """Share of true values that the interval about a restored voxel shall hold."""
    max_slices: int = Field(128, ge=2, le=100000)
    """Slices to learn from: the middle ones, held in memory."""
    max_side_px: int = Field(1024, ge=32, le=100000)
    """Side of the middle part of each slice that is learned from, in pixels."""
    held_out: bool = True
    """Hide slices, restore and score them, and correct the interval by what they tell; doubles the training's cost."""


class VemRestore(VoxelSize):
    """Fill the gaps between slices, block by block."""

    block_slices: int = Field(32, ge=2, le=10000)
    """Measured slices of a block; blocks bound the memory and are what a killed run loses at most."""
    block_px: int = Field(256, ge=16, le=10000)
    """Side of a block, in pixels."""


class VemScore(StepConfig):
    """Compare a restored volume with the true one."""

    factor: int = Field(1, ge=1, le=64)
    """Every factor-th slice was measured: those are left out of the comparison; 1 compares all."""


STEPS: dict[str, type[StepConfig]] = {
    "train": VemTrain,
    "restore": VemRestore,
    "score": VemScore,
    "train_images": VemTrainImages,
    "denoise": VemDenoise,
}

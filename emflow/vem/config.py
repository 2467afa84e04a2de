"""Settings of the vem room."""

from pydantic import Field

from emflow.step import StepConfig


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


class VemTrainSampler(VoxelSize):
    """Learn to sample the fine texture that a restored volume lacks, and judge the samples."""

    seed: int = Field(0, ge=0)
    """Seed of the first weights and the crops."""
    steps: int = Field(400, ge=0, le=1000000)
    """Training steps of the flow; 0 leaves noise of the texture's spectrum as it is."""
    batch: int = Field(12, gt=0, le=4096)
    """Crops in a step."""
    crop_px: int = Field(96, ge=32, le=1024, multiple_of=8)
    """Width of a crop, in pixels."""
    learning_rate: float = Field(2e-3, gt=0, le=1)
    """Highest learning rate of Adam; it rises over the first twentieth of the steps and falls to 0."""
    psnr_loss_db: float = Field(0.49, gt=0, le=3)
    """Loss of PSNR that texture may cost, in decibel: less where all that lacks is had for less. The gate asks for 0.5
    at most."""
    evaluations: int = Field(4, ge=0, le=8)
    """Evaluations of the network for a sample that is judged."""
    max_slices: int = Field(128, ge=2, le=100000)
    """Slices to learn from: the middle ones, as for vem train, whose held-back slices are held back here, too."""
    max_side_px: int = Field(1024, ge=32, le=100000)
    """Side of the middle part of each slice that is learned from, in pixels."""


class VemSample(VoxelSize):
    """Fill the gaps between slices with samples of what may be there, block by block."""

    seed: int = Field(0, ge=0)
    """Seed of the noise; the same seed gives the same samples."""
    samples: int = Field(2, ge=1, le=32)
    """Samples to write; from two on their mean and deviation are written, too."""
    evaluations: int = Field(4, ge=0, le=8)
    """Evaluations of the network for a sample; 0 adds noise of the texture's spectrum."""
    temperature: float = Field(1.0, ge=0, le=5)
    """Factor of the texture: the PSNR's loss grows with its square. 0 gives the mean."""
    block_slices: int = Field(32, ge=2, le=10000)
    """Measured slices of a block; blocks bound the memory and are what a killed run loses at most."""
    block_px: int = Field(256, ge=16, le=10000)
    """Side of a block, in pixels."""


STEPS: dict[str, type[StepConfig]] = {
    "train": VemTrain,
    "restore": VemRestore,
    "score": VemScore,
    "train_sampler": VemTrainSampler,
    "sample": VemSample,
}

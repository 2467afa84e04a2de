"""Settings of the vem room."""

from typing import ClassVar

from pydantic import Field, field_validator

from emflow.step import StepConfig
from emflow.vem.config_images import VemDenoise, VemTrainImages


class VoxelSize(StepConfig):
    """Distances of the voxels."""

    voxel_nm: tuple[float, float, float] | None = None
    """Distance of voxels along z, y, x, in nanometre; null takes the file's, and without one the step stops."""


class VemCheck(StepConfig):
    """Find slices that are missing, damaged, shifted or of other brightness."""

    window_slices: int = Field(15, ge=5, le=1001)
    """Neighbours that a slice is compared with, and over which the specimen's own course may turn."""
    max_side_px: int = Field(1024, ge=64, le=100000)
    """Side of the middle part of each slice that is looked at, in pixels."""
    least_similarity: float = Field(0.5, gt=0, lt=1)
    """A slice is unlike its neighbours where its correlation with them is below this part of theirs."""
    least_detail: float = Field(0.4, gt=0, lt=1)
    """A slice is blurred where its detail is below this part of what is usual about it."""
    most_saturated: float = Field(0.25, gt=0, lt=1)
    """Share of pixels at the ends of the range, beyond what is usual, from which a slice is saturated."""
    least_shift_px: float = Field(0.25, ge=0, le=100)
    """Shifts below this are left, so that the slice stays as measured, in pixels."""
    brightness_jump: float = Field(0.5, gt=0, le=100)
    """Departure of a slice's median from its neighbours' that is listed, in deviations within the slice."""


class SliceTable(StepConfig):
    """What is done with what a table of slices tells."""

    align: bool = True
    """Move slices into register by the shifts of the table; by parts of a pixel they are interpolated."""
    normalise: bool = False
    """Give slices the brightness and contrast of their neighbours, as the table tells."""


class VemPretrain(VoxelSize):
    """Learn from isotropic volumes to fill gaps of any factor from 2 to 16: weights for `vem train` to start from."""

    seed: int = Field(0, ge=0)
    """Seed of the first weights and the crops."""
    steps: int = Field(14000, gt=0, le=10000000)
    """Training steps; each has one factor."""
    batch: int = Field(12, gt=0, le=4096)
    """Crops in a step."""
    crop_px: int = Field(96, ge=16, le=1024, multiple_of=8)
    """Width of a crop, in pixels."""
    learning_rate: float = Field(2e-3, gt=0, le=1)
    """Highest learning rate of Adam; it rises over the first twentieth of the steps and falls to 0."""
    max_side_px: int = Field(512, ge=40, le=100000)
    """Side of the middle part of each volume that is learned from, in voxels; all are held in memory."""


class VemTrain(VoxelSize, SliceTable):
    """Learn to fill the gaps between slices from the measured slices, and from an isotropic volume where there is one."""

    version: ClassVar[int] = 4
    seed: int = Field(0, ge=0)
    """Seed of the first weights and the crops."""
    start: str = "general"
    """Weights to begin with: general (the shipped ones, learned from simulated volumes), scratch, or the path of those
    that vem pretrain or vem train wrote."""
    steps: int = Field(500, ge=0, le=1000000)
    """Training steps; 0 takes the weights as they are and only finds their interval on this volume."""
    batch: int = Field(12, gt=0, le=4096)
    """Crops in a step."""
    crop_px: int = Field(96, ge=16, le=1024, multiple_of=8)
    """Width of a crop, in pixels."""
    learning_rate: float = Field(2e-3, gt=0, le=1)
    """Highest learning rate of Adam; it rises over the first twentieth of the steps and falls to 0."""
    isotropic_share: float = Field(0.5, gt=0, le=1)
    """Part of the crops that come from the isotropic volume, where one is given; 1 learns from it alone."""
    coverage: float = Field(0.9, gt=0.5, lt=1)
    """Share of true values that the interval about a restored voxel shall hold."""
    orientations: int = Field(4, ge=1, le=4)
    """Ways to mirror a plane that vem restore averages, 1, 2 or 4: 1 costs a quarter of 4, and loses about 0.1 dB."""
    max_slices: int = Field(128, ge=2, le=100000)
    """Slices to learn from: the middle ones, held in memory."""
    max_side_px: int = Field(1024, ge=32, le=100000)
    """Side of the middle part of each slice that is learned from, in pixels."""
    held_out: bool = True
    """Hide slices, restore and score them, and correct the interval by what they tell; doubles the training's cost."""

    @field_validator("orientations")
    @classmethod
    def _mirrored_whole_axes(cls, value: int) -> int:
        if value == 3:
            raise ValueError("should be 1, 2 or 4")
        return value


class VemRestore(VoxelSize, SliceTable):
    """Fill the gaps between slices, block by block."""

    version: ClassVar[int] = 3
    block_slices: int = Field(32, ge=2, le=10000)
    """Measured slices of a block; blocks bound the memory and are what a killed run loses at most."""
    block_px: int = Field(256, ge=16, le=10000)
    """Side of a block, in pixels."""
    max_error: float = Field(1.2, gt=0, le=1000)
    """Largest half-width of the interval that you allow, in deviations of the volume's intensities: beyond it the mask
    is set. Of pure noise nothing is known, and the interval that holds nine tenths of it is 1.64 wide on either side."""


class VemParts(StepConfig):
    """Divide the restoration of a volume among jobs; results do not depend on it."""

    megavoxels: float = Field(128.0, gt=0, le=1000000)
    """Million measured voxels that a job does; one that is killed loses the block that it was at."""


class VemScore(StepConfig):
    """Compare a restored volume with the true one."""

    factor: int = Field(1, ge=1, le=64)
    """Every factor-th slice was measured: those are left out of the comparison; 1 compares all."""


class VemTrainMembranes(StepConfig):
    """Learn from labelled slices where membranes are."""

    seed: int = Field(0, ge=0)
    """Seed of the first weights and the crops."""
    steps: int = Field(800, gt=0, le=1000000)
    """Training steps."""
    batch: int = Field(4, gt=0, le=4096)
    """Crops in a step."""
    crop_px: int = Field(128, ge=64, le=1024, multiple_of=8)
    """Side of a crop, in pixels."""
    learning_rate: float = Field(2e-3, gt=0, le=1)
    """Highest learning rate of Adam; it rises over the first twentieth of the steps and falls to 0."""
    augment: bool = True
    """Bend crops and change their contrast, brightness and noise, beside turning and flipping them."""
    affinities: bool = True
    """Learn beside membranes whether pixels some way apart are of one segment."""
    turns: bool = True
    """Average the probability over the eight ways to turn and flip a plane; costs eight evaluations."""
    max_slices: int = Field(64, ge=1, le=100000)
    """Labelled slices to learn from, evenly chosen, held in memory."""
    max_side_px: int = Field(2048, ge=64, le=100000)
    """Side of the middle part of each slice that is learned from, in pixels."""


class VemSegment(VoxelSize):
    """Find membranes, and the segments that they divide, block by block."""

    mode: str = Field("auto", pattern=r"^(auto|slices|linked|volume)$")
    """slices: each slice on its own; linked: segments of neighbouring slices that overlap are one; volume: a watershed in
    three dimensions, of the mean of what xy, xz and yz planes say, for voxels that are nearly cubes; auto: volume for those,
    else linked."""
    overlap: float = Field(0.5, gt=0, le=1)
    """Segments of two slices or blocks are one where they share this part of the smaller, and each shares most with the
    other."""
    halo_px: int = Field(32, ge=4, le=1024)
    """Pixels around a block that its watershed sees: blocks are joined by what they share there."""
    least_pixels: int = Field(20, ge=0, le=1000000)
    """Smaller segments (of a slice, or of a volume's watershed) are merged into a neighbour."""
    block_slices: int = Field(32, ge=1, le=10000)
    """Slices of a block; blocks bound the memory and are what a killed run loses at most."""
    block_px: int = Field(512, ge=64, le=10000, multiple_of=8)
    """Side of a block, in pixels."""


class VemScoreSegments(StepConfig):
    """Compare segments with the true ones."""

    planes: str = Field("volume", pattern=r"^(volume|xy|xz|yz)$")
    """volume: labels are compared in three dimensions; xy, xz, yz: in each plane on its own, and the mean is told."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """A pixel counts as membrane from this probability on."""


class VemTrainSampler(VoxelSize, SliceTable):
    """Learn to sample the fine texture that a restored volume lacks, and judge the samples."""

    version: ClassVar[int] = 2
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


class VemSample(VoxelSize, SliceTable):
    """Fill the gaps between slices with samples of what may be there, block by block."""

    version: ClassVar[int] = 3
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
    "check": VemCheck,
    "pretrain": VemPretrain,
    "train": VemTrain,
    "restore": VemRestore,
    "parts": VemParts,
    "score": VemScore,
    "train_membranes": VemTrainMembranes,
    "segment": VemSegment,
    "score_segments": VemScoreSegments,
    "train_sampler": VemTrainSampler,
    "sample": VemSample,
    "train_images": VemTrainImages,
    "denoise": VemDenoise,
}

"""Settings of the denoise room."""

from typing import ClassVar

from pydantic import Field

from emflow.step import OpticsFacts, SpecimenContrast, StepConfig


class DenoiseTrain(SpecimenContrast, OpticsFacts):
    """Train a model on the session's own micrographs, from pairs with independent noise."""

    version: ClassVar[int] = 2

    seed: int = Field(0, ge=0)
    """Seed of the first weights, the crops and the noise that is added."""
    start: str = Field("general", min_length=1)
    """Begin with the general model (fine-tune it), from scratch, or with a model's weights (path of a .safetensors)."""
    target: str = Field("auto", pattern=r"^(auto|halves|single|clean)$")
    """What is learned from: halves (even and odd sums), single (the micrograph alone, with noise added and taken
    away), clean (noise-free images of a simulated session, column emflowCleanName); auto takes halves where
    there are any, else single."""
    steps: int = Field(1000, gt=0, le=1000000)
    """Training steps."""
    batch: int = Field(16, gt=0, le=4096)
    """Crops in a step."""
    crop_px: int = Field(96, ge=32, le=1024, multiple_of=16)
    """Side of a crop, in pixels of the scale that the network works at."""
    learning_rate: float = Field(1e-3, gt=0, le=1)
    """Highest learning rate of Adam; it rises over the first twentieth of the steps and falls to 0."""
    max_micrographs: int = Field(100, gt=0, le=10000)
    """Micrographs to learn from, spread evenly over the list; they are held in memory, at the working scale."""
    pixel_angstrom: float = Field(6.0, gt=0, le=50)
    """Pixel of the scale that the network works at, in ångström; only from scratch, else the first model's."""
    widths: tuple[int, ...] = Field((16, 32, 48, 64), min_length=2, max_length=5)
    """Channels of the network at its finest scale and at each halving; only from scratch."""


class DenoiseTrainRestorer(SpecimenContrast, OpticsFacts):
    """Learn to sample the error of a model, from simulated sessions with their noise-free images."""

    weights: str | None = None
    """Weights of the model whose error is learned (.safetensors, its manifest beside it); null takes the general one."""
    seed: int = Field(0, ge=0)
    """Seed of the first weights, the crops and the noise."""
    deviation_steps: int = Field(500, gt=0, le=1000000)
    """Training steps of the network that tells the error's deviation."""
    steps: int = Field(2000, gt=0, le=1000000)
    """Training steps of the flow."""
    batch: int = Field(8, gt=0, le=4096)
    """Crops in a step."""
    crop_px: int = Field(96, ge=64, le=1024, multiple_of=16)
    """Side of a crop, in pixels of the scale that the network works at."""
    learning_rate: float = Field(2e-3, gt=0, le=1)
    """Highest learning rate of Adam; it rises over the first twentieth of the steps and falls to 0."""
    max_micrographs: int = Field(100, gt=0, le=10000)
    """Micrographs to learn from, spread evenly over the list; they are held in memory, at the working scale."""
    widths: tuple[int, ...] = Field((16, 32, 48), min_length=2, max_length=5)
    """Channels of both networks at the finest scale and at each halving."""
    evaluations: int = Field(4, ge=0, le=8)
    """Evaluations of the flow for a sample, with which the samples are judged."""


class DenoiseApply(SpecimenContrast, OpticsFacts):
    """Denoise micrographs with the general model or with one of your own."""

    version: ClassVar[int] = 2

    method: str = Field("regression", pattern=r"^(regression|diffusion)$")
    """How: regression gives the expected image; diffusion samples what the image may be, and writes the samples' mean
    as the denoised image, their deviation and one sample. It costs about twenty times as much; see
    docs/denoise-restorer.md for what it is good for."""
    weights: str | None = None
    """Weights of a trained model (.safetensors, its manifest beside it); null takes the general model."""
    restorer: str | None = None
    """Weights from denoise train-restorer, which must have learned beside those weights; null takes the general ones
    (method: diffusion)."""
    samples: int = Field(8, ge=2, le=256, multiple_of=2)
    """Samples of each micrograph (method: diffusion)."""
    evaluations: int = Field(4, ge=0, le=8)
    """Evaluations of the network for a sample; 0 leaves coloured noise (method: diffusion)."""
    seed: int = Field(0, ge=0)
    """Seed of the samples (method: diffusion)."""
    precision: str = Field("float32", pattern=r"^(float32|bfloat16)$")
    """Operands of the networks' products. With bfloat16 images differ by about a hundredth of their deviation; it is for
    GPUs, on CPUs it is slower."""
    tile_px: int = Field(1024, ge=256, le=8192, multiple_of=64)
    """Side of the tiles in which large images are worked through, in pixels of the working scale; bounds the memory."""


class DenoiseCheck(SpecimenContrast, OpticsFacts):
    """Ask independent data of the same micrographs what of the denoised ones they bear out."""

    version: ClassVar[int] = 2

    weights: str | None = None
    """Weights of a trained model (.safetensors, its manifest beside it); null takes the general model."""
    evidence: str = Field("auto", pattern=r"^(auto|halves|interleaved|split)$")
    """Where independent data come from: halves (even and odd sums), interleaved (every other pixel, as on a
    chessboard; pixels of at most half the working scale's), split (white noise added and taken away); auto takes
    the first of these that there is."""
    max_micrographs: int = Field(12, gt=0, le=10000)
    """Micrographs to ask, spread evenly over the list."""
    seed: int = Field(0, ge=0)
    """Seed of the noise that is added (evidence: split)."""
    tile_px: int = Field(1024, ge=256, le=8192, multiple_of=64)
    """Side of the tiles in which large images are worked through, in pixels of the working scale; bounds the memory."""


STEPS: dict[str, type[StepConfig]] = {
    "train": DenoiseTrain,
    "train_restorer": DenoiseTrainRestorer,
    "apply": DenoiseApply,
    "check": DenoiseCheck,
}

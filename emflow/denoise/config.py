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


class DenoiseApply(SpecimenContrast, OpticsFacts):
    """Denoise micrographs with the general model or with one of your own."""

    version: ClassVar[int] = 2

    weights: str | None = None
    """Weights of a trained model (.safetensors, its manifest beside it); null takes the general model."""
    tile_px: int = Field(1024, ge=256, le=8192, multiple_of=64)
    """Side of the tiles in which large images are worked through, in pixels of the working scale; bounds the memory."""


class DenoiseCheck(SpecimenContrast, OpticsFacts):
    """Ask independent data of the same micrographs what of the denoised ones they bear out."""

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


STEPS: dict[str, type[StepConfig]] = {"train": DenoiseTrain, "apply": DenoiseApply, "check": DenoiseCheck}

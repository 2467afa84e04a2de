"""Settings of the vem room's steps for single images."""

from pydantic import Field

from emflow.step import StepConfig


class VemTrainImages(StepConfig):
    """Learn to denoise or to super-resolve images from pairs, or from noisy images alone."""

    seed: int = Field(0, ge=0)
    """Seed of the first weights, the crops and the noise that is added."""
    start: str = Field("general", pattern=r"^(general|scratch)$")
    """Begin with the weights that emflow ships (fine-tune them), or from scratch."""
    factor: int | None = Field(None, ge=1, le=4)
    """Pixels of the clean image along each of the noisy one's: 2 learns super-resolution; null takes what the sizes of
    the first pair tell. Images are enlarged so far by cubic splines, then restored."""
    max_images: int = Field(32, gt=0, le=10000)
    """Images, or pairs, to learn from, spread evenly over the list; they are held in memory."""
    steps: int = Field(200, gt=0, le=1000000)
    """Training steps."""
    batch: int = Field(6, gt=0, le=4096)
    """Crops in a step."""
    crop_px: int = Field(112, ge=32, le=1024, multiple_of=8)
    """Side of a crop, in pixels of the clean image."""
    learning_rate: float = Field(1e-3, gt=0, le=1)
    """Highest learning rate of Adam; it rises over the first twentieth of the steps and falls to 0."""
    coverage: float = Field(0.9, gt=0.5, lt=1)
    """Share of true values that the interval about a pixel shall hold."""
    orientations: int = Field(8, ge=1, le=8)
    """Turned and mirrored copies of an image that are denoised and averaged: 1 costs an eighth, and is a little noisier."""
    tile_px: int = Field(1024, ge=256, le=8192, multiple_of=8)
    """Side of the tiles in which images are worked through; bounds the memory."""


class VemDenoise(StepConfig):
    """Denoise or super-resolve images, with the interval about each pixel."""

    weights: str | None = None
    """Folder or weights that vem train-images wrote; null takes the weights that emflow ships."""
    rescale: bool = False
    """Bring each image to the mean and deviation of those that were trained on, for images taken at another brightness
    or contrast; the shipped weights always do."""
    orientations: int = Field(8, ge=1, le=8)
    """Turned and mirrored copies of an image that are denoised and averaged: 1 costs an eighth, and is a little noisier."""
    tile_px: int = Field(1024, ge=256, le=8192, multiple_of=8)
    """Side of the tiles in which images are worked through; bounds the memory."""

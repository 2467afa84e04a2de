"""Settings of the CTF room."""

from pydantic import Field

from emflow.step import OpticsFacts


class CtfFit(OpticsFacts):
    """Estimate defocus and astigmatism of each micrograph from its power spectrum."""

    patch_size: int = Field(512, gt=63, le=4096, multiple_of=2)
    """Side of the patches averaged into the power spectrum, in pixels."""


STEPS = {"fit": CtfFit}

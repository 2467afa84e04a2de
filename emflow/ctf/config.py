"""Settings of the CTF room."""

from pydantic import Field, model_validator

from emflow.step import OpticsFacts


class CtfFit(OpticsFacts):
    """Estimate defocus and astigmatism of each micrograph from its power spectrum."""

    patch_size: int = Field(0, ge=0, le=8192, multiple_of=2)
    """Side of the patches averaged into the power spectrum, in pixels; 0 takes about 800 Å, so that
    the rings of a few micrometre of defocus are resolved at 3 Å."""
    low_resolution_angstrom: float = Field(25.0, gt=5, le=200)
    """Lowest resolution used for the fit, in ångström; coarser rings are hidden under the
    particle's own shape."""
    high_resolution_angstrom: float = Field(3.0, gt=0.5, le=20)
    """Highest resolution used, in ångström; where the pixels are too coarse for it, 95 % of Nyquist."""
    defocus_min_um: float = Field(0.3, gt=0.01, le=20)
    """Lowest mean defocus searched, in micrometre (underfocus)."""
    defocus_max_um: float = Field(6.0, gt=0.05, le=20)
    """Highest mean defocus searched, in micrometre."""
    astigmatism_max_um: float = Field(0.25, ge=0, le=2)
    """Largest difference of the two defoci searched, in micrometre; 0 fits none."""
    phase_shift_deg: float = Field(0.0, ge=0, lt=180)
    """Phase shift of a phase plate, in degrees; taken as known, not fitted."""
    ring_correlation: float = Field(0.5, gt=0, lt=1)
    """Thon rings count as fitted up to the resolution where spectrum and fit correlate less than this."""
    reliable_confidence: float = Field(0.4, ge=0, lt=1)
    """A fit is called reliable when the second-best defocus scores lower than the best by at least this part of it;
    pure noise reaches 0.1 to 0.3."""

    @model_validator(mode="after")
    def _ordered(self) -> "CtfFit":
        if self.defocus_min_um >= self.defocus_max_um:
            raise ValueError("defocus_min_um must be less than defocus_max_um")
        if self.high_resolution_angstrom >= self.low_resolution_angstrom:
            raise ValueError("high_resolution_angstrom must be less than low_resolution_angstrom")
        return self


class CtfImport(OpticsFacts):
    """Take somebody's CTF instead of fitting it."""


STEPS = {"fit": CtfFit, "import": CtfImport}

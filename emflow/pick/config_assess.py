"""Settings of what is told of micrographs before picking: good or bad, and how large the particles are."""

from pydantic import Field

from emflow.step import OpticsFacts, SpecimenContrast, SpecimenSize


class PickAssess(OpticsFacts, SpecimenSize, SpecimenContrast):
    """Say of each micrograph whether it is good, or why not, from its spectrum and its picture.

    Where pixels are coarser than 6 Å, signal, falloff, gradient and opaque parts are not judged: no noise is seen alone.
    """

    min_signal: float = Field(1.1, ge=0, le=1000)
    """Least power at periods of 30 to 300 Å over that of the finest detail: 1 for an image of noise alone."""
    max_ice_ring: float = Field(1.35, ge=1, le=1000)
    """Highest reflection of crystalline ice (3.9, 3.67, 3.44 Å) over the spectrum beside it. Not judged where pixels are
    coarser than 1.57 Å."""
    max_falloff: float = Field(0.18, ge=0, le=1)
    """Largest dependence of the spectrum's fall on direction, as drift makes it: 0.1 to 0.2 at 10 Å, 0.2 to 0.3 at 20 Å."""
    max_gradient: float = Field(0.4, ge=0, le=1)
    """Largest part of the electrons by which one side falls behind another."""
    max_opaque_fraction: float = Field(0.1, ge=0, le=1)
    """Largest part of the area that lets through less than 60 % of what the rest does: grid bars, an aperture's edge."""
    max_contaminated_fraction: float = Field(0.5, ge=0, le=1)
    """Largest part of the area under contamination. Not judged where the particle's diameter is not known."""
    max_thickness_change: float = Field(0.35, gt=0, le=10)
    """Largest natural logarithm of a micrograph's mean over the table's median: thick ice is dim, a hole without ice
    bright. Not judged where the micrographs are no counts, or fewer than five."""
    require_rings: bool = True
    """A micrograph whose Thon rings `ctf fit` found not reliable is bad; not judged where the table does not tell."""


class PickSize(OpticsFacts, SpecimenContrast):
    """Estimate the particle's longest diameter from the micrographs."""

    max_micrographs: int = Field(8, ge=1, le=1000)
    """Most micrographs that are looked at, spread over the table; fewer where the first are clear."""

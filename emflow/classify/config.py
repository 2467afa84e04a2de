"""Settings of the classify room."""

from pydantic import Field

from emflow.step import SpecimenSize, StepConfig


class ClassifyRun(SpecimenSize):
    """Sort particle images into classes of like views, and average each."""

    n_classes: int = Field(0, ge=0, le=5000)
    """Classes; 0 takes one for each 50 particles, at least 10 and at most 200."""
    n_iterations: int = Field(24, ge=1, le=1000)
    """Iterations on drawn particles, at low resolution."""
    n_drawn: int = Field(0, ge=0, le=1000000)
    """Particles drawn for an iteration; 0 takes ten for each class, at least 500."""
    resolution_angstrom: float | None = Field(None, gt=1, le=500)
    """Resolution at which classes are found. null takes a tenth of the diameter."""
    finest_angstrom: float | None = Field(None, gt=1, le=500)
    """Finest resolution of the averages. null takes a twenty-fourth of the diameter, or Nyquist."""
    passes: int = Field(3, ge=1, le=20)
    """Passes over all particles at the end, from the first resolution to the finest."""
    candidates: int = Field(4, ge=1, le=100)
    """Classes that a particle is still compared with in these passes."""
    shift_fraction: float = Field(0.12, ge=0, le=0.5)
    """How far off its box's centre a particle may be, in diameters."""
    seed: int = 0
    """Seed of the first averages and of the draws."""


class ClassifySelect(StepConfig):
    """Choose classes and particles; a person's labels win."""

    enabled: bool = False
    """Whether the first map is made of the selected particles; otherwise of all extracted ones."""
    minimum_score: float = Field(0.3, ge=0, le=1)
    """Classes below this score are removed."""
    minimum_evidence: float = Field(2.0, ge=-100, le=1000)
    """Log of how much likelier a particle is under the classes than under noise alone, in nat; below it, a box is
    taken to be empty."""
    particle_criterion: bool = True
    """Remove single particles too: those that fit noise as well as a class, and those unlike all others."""
    labels: str = "labels/classes.star"
    """STAR table with rlnClassNumber and emflowSelected (1 keep, 0 remove), relative to the working folder: a
    person's choice for these classes; none if it is not there."""


STEPS: dict[str, type[StepConfig]] = {"run": ClassifyRun, "select": ClassifySelect}

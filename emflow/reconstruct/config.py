"""Settings of the reconstruct room."""

from typing import ClassVar

from pydantic import Field

from emflow.step import SpecimenSize, SpecimenSymmetry, StepConfig


class ReconstructAbinitio(SpecimenSize, SpecimenSymmetry):
    """Find a first map from random starts, in each half-set on its own."""

    version: ClassVar[int] = 2
    n_starts: int = Field(12, ge=1, le=1000)
    """Random starts in each half-set, in a low band where they are cheap."""
    max_starts: int = Field(48, ge=1, le=10000)
    """While the two half-sets do not agree on a structure, each makes as many starts again, up to this number."""
    n_finalists: int = Field(3, ge=1, le=100)
    """The likeliest starts that go on to the first band; the likeliest of these gives the map."""
    resolution_angstrom: float | None = Field(None, gt=1, le=500)
    """Resolution at which orientations are first found. null takes a fifth of the diameter, divided by the cube
    root of the symmetry's order: how far the detail of one asymmetric unit reaches."""
    n_iterations: int = Field(20, ge=1, le=10000)
    """Iterations of each start in the low band, on particles drawn anew."""
    n_drawn: int = Field(150, ge=10, le=100000)
    """Particles drawn for an iteration: few enough to leave false minima, enough for a map."""
    max_particles: int = Field(4000, ge=50, le=1000000)
    """Particles of a half-set that shape the map, drawn at random; all get poses at the end."""
    shift_fraction: float = Field(0.2, ge=0, le=0.5)
    """How far off its box's centre a particle may be, in diameters."""
    seed: int = 0
    """Seed of the random starts; each half-set has a stream of its own."""


class ReconstructRefine(SpecimenSize, SpecimenSymmetry):
    """Refine poses and map in two independent halves."""

    max_iterations: int = Field(15, ge=1, le=100)
    """Iterations at most; it stops when two in a row bring no finer shell."""
    global_iterations: int = Field(2, ge=0, le=100)
    """Iterations that search all orientations; later ones search around the last pose."""
    shift_fraction: float = Field(0.05, ge=0, le=0.5)
    """How far off its box's centre a particle may be in a global search, in diameters."""
    solvent_mask: bool = True
    """Mask each half's reference by its own solvent mask; otherwise by a sphere only."""
    sharpening_bfactor_angstrom2: float | None = Field(None, ge=-2000, le=2000)
    """B factor of map.mrc, in Å², negative to sharpen; null fits it where the map reaches 7.5 Å, else 0. Half
    maps are never sharpened."""
    seed: int = 0
    """Seed of the turns of the global grid."""


class ReconstructSymmetry(SpecimenSize):
    """Find the point group of a map that was made without symmetry, and turn it into the group's frame."""

    seed: int = 0
    """Seed of the random frames that each group is compared with."""


STEPS: dict[str, type[StepConfig]] = {
    "abinitio": ReconstructAbinitio,
    "symmetry": ReconstructSymmetry,
    "refine": ReconstructRefine,
}

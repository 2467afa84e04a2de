"""Settings of the simulate room."""

from pathlib import Path

from pydantic import Field

from emflow.step import OpticsFacts, SpecimenSize, SpecimenSymmetry, StepConfig


class SimulateSession(OpticsFacts, SpecimenSize, SpecimenSymmetry):
    """Make a session with known truth. Facts not given: 3 Å/px, longest diameter near 200 Å."""

    seed: int = Field(0, ge=0)
    """Seed of everything random: same settings, same bytes."""
    n_micrographs: int = Field(12, ge=0, le=100000)
    """Micrographs with particles."""
    n_noise_micrographs: int = Field(0, ge=0, le=100000)
    """Further micrographs of ice and camera noise alone."""
    micrograph_size_px: int = Field(1024, ge=128, le=16384, multiple_of=2)
    """Side of the square micrographs, in pixels."""
    particles_per_micrograph: int = Field(88, ge=0, le=100000)
    """Particles on a micrograph without carbon; fewer where carbon or aggregates take room."""
    min_distance: float = Field(0.9, ge=0, le=10)
    """Smallest distance between two particle centres, in longest diameters."""
    snr: float = Field(0.08, gt=0, le=1000)
    """Variance of a particle's projection (with CTF) in a box of 1.5 diameters over the variance of the noise."""
    ice_noise: float = Field(0.1, ge=0, lt=1)
    """Fraction of the noise's variance that comes from the ice (it passes the CTF); the rest is the camera's."""
    defocus_min_um: float = Field(0.8, ge=-10, le=20)
    """Smallest mean defocus, in micrometre."""
    defocus_max_um: float = Field(2.5, ge=-10, le=20)
    """Largest mean defocus, in micrometre."""
    astigmatism_max_um: float = Field(0.08, ge=0, le=5)
    """Largest difference of the two principal defoci, in micrometre."""
    envelope_b_factor_angstrom2: float = Field(60.0, ge=0, le=5000)
    """B-factor of the imaging (motion, coherence): amplitudes fall as exp(-B s²/4), in Å²."""
    atom_b_factor_angstrom2: float = Field(60.0, ge=0, le=5000)
    """B-factor of the atoms, in the true map too, in Å²."""
    n_carbon_micrographs: int = Field(2, ge=0)
    """Micrographs with a carbon edge, spread over the session."""
    aggregates_per_micrograph: float = Field(0.7, ge=0, le=100)
    """Mean number of aggregates (clumps of overlapping particles) a micrograph."""
    model: Path | None = None
    """PDB or mmCIF file of the specimen (of one asymmetric unit where a symmetry is set); else it is generated."""
    mass_kda: float = Field(450.0, gt=5, le=20000)
    """Mass of the generated specimen (of one asymmetric unit), in kilodalton."""
    n_domains: int = Field(6, ge=1, le=30)
    """Number of unequal domains of the generated specimen."""
    keep_clean: bool = False
    """Write truth/clean/<name>.mrc too: the noise-free image (particles and junk with CTF; no camera noise, no ice)."""


class SimulateScore(StepConfig):
    """Compare results with a simulated truth."""

    match_radius: float = Field(0.25, gt=0, le=2)
    """A pick is true within this distance of a particle, in longest diameters."""


STEPS: dict[str, type[StepConfig]] = {"session": SimulateSession, "score": SimulateScore}

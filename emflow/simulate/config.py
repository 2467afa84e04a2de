"""Settings of the simulate room."""

from pathlib import Path

from pydantic import Field

from emflow.step import OpticsFacts, SpecimenSize, SpecimenSymmetry, StepConfig


class Specimen(OpticsFacts, SpecimenSize, SpecimenSymmetry):
    """What is imaged, and how its particles differ from each other."""

    seed: int = Field(0, ge=0)
    """Seed of everything random: same settings, same bytes."""
    model: Path | None = None
    """PDB or mmCIF file of the specimen (of one asymmetric unit where a symmetry is set); else it is generated."""
    models: tuple[Path, ...] = ()
    """PDB or mmCIF files in one frame, each a state, in the order of their numbers; in place of `model`."""
    mass_kda: float = Field(450.0, gt=5, le=20000)
    """Mass of the generated specimen (of one asymmetric unit), in kilodalton."""
    n_domains: int = Field(6, ge=1, le=30)
    """Number of unequal domains of the generated specimen; a `model` is divided into as many where one is needed."""
    n_angles: int = Field(0, ge=0, le=2)
    """Motion: 0 none; 1 a domain turns about an axis through its linker (hinge); 2 about two axes."""
    angle_range_deg: float = Field(360.0, gt=0, le=360)
    """Whole range of the first angle, in degrees; 360 is a full turn."""
    second_angle_range_deg: float = Field(60.0, gt=0, le=360)
    """Whole range of the second angle, in degrees."""
    angle_distribution: str = Field("uniform", pattern=r"^(uniform|normal)$")
    """Distribution of the angles: uniform, or normal (four standard deviations fill the range)."""
    moving_fraction: float = Field(0.25, gt=0, lt=1)
    """Mass that moves, as a fraction of the whole; the domains that come near to it and move far are chosen."""
    n_compositions: int = Field(1, ge=1, le=64)
    """Compositional states: the first has all domains, the next lack one each (the largest first), then two."""
    populations: tuple[float, ...] = ()
    """Relative numbers of particles in the states, in their order; empty for equal ones."""
    broken_fraction: float = Field(0.0, ge=0, le=1)
    """Fraction of particles that are broken: half of one missing, or denatured."""
    view_preference: float = Field(0.0, ge=0, le=100)
    """Preferred views: concentration of the beam's direction about the specimen's z axis; 0 for uniform views."""
    atom_b_factor_angstrom2: float = Field(60.0, ge=0, le=5000)
    """B-factor of the atoms, in the true map too, in Å²."""
    envelope_b_factor_angstrom2: float = Field(60.0, ge=0, le=5000)
    """B-factor of the imaging (motion, coherence): amplitudes fall as exp(-B s²/4), in Å²."""
    dose_e_per_a2: float = Field(0.0, ge=0, le=1000)
    """Exposure over which radiation damage fades fine detail, in electrons per Å²; 0 for none."""
    defocus_min_um: float = Field(0.8, ge=-10, le=20)
    """Smallest mean defocus, in micrometre."""
    defocus_max_um: float = Field(2.5, ge=-10, le=20)
    """Largest mean defocus, in micrometre."""
    astigmatism_max_um: float = Field(0.08, ge=0, le=5)
    """Largest difference of the two principal defoci, in micrometre."""
    n_state_volumes: int = Field(10, ge=1, le=1000)
    """Volumes written along the motion of each state (truth/states)."""


class SimulateSession(Specimen):
    """Make a session with known truth. Facts not given: 3 Å/px, longest diameter near 200 Å."""

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
    ice_texture: str = Field("white", pattern=r"^(white|fields|grains)$")
    """Grain of the ice: white, fields (smooth, Gaussian) or grains (discs in clusters). Train on one, judge on another."""
    ice_crystals_per_micrograph: float = Field(0.0, ge=0, le=1000)
    """Mean number of ice crystals on a micrograph with particles."""
    gold_beads_per_micrograph: float = Field(0.0, ge=0, le=1000)
    """Mean number of gold beads (5 to 15 nm) on a micrograph with particles."""
    n_carbon_micrographs: int = Field(2, ge=0)
    """Micrographs with a carbon edge, spread over the session."""
    aggregates_per_micrograph: float = Field(0.7, ge=0, le=100)
    """Mean number of aggregates (clumps of overlapping particles) a micrograph."""
    keep_clean: bool = False
    """Write truth/clean/<name>.mrc too: the noise-free image (particles and junk with CTF; no camera noise, no ice)."""


class SimulateParticles(Specimen):
    """Make a stack of particle images with known poses, CTF and states.

    The pixel size, where not given, makes the box 1.5 longest diameters (200 Å if unset).
    """

    n_particles: int = Field(5000, ge=0, le=10**8)
    """Particles."""
    box_px: int = Field(64, ge=16, le=1024, multiple_of=2)
    """Side of the images, in pixels."""
    snr: float = Field(0.1, gt=0, le=1000)
    """Variance of a particle's projection (with CTF) in the box over the variance of the white noise."""
    max_shift_px: float = Field(0.5, ge=0, le=100)
    """Particles lie off the centre by up to so much along x and y, in pixels; rlnOriginX/YAngst says how."""
    particles_per_micrograph: int = Field(100, ge=1, le=100000)
    """Particles that share a micrograph's name, defocus and half-set."""
    defocus_spread_angstrom: float = Field(0.0, ge=0, le=20000)
    """Standard deviation of the particles' defocus about their micrograph's, which alone particles.star tells, in Å."""
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    """Beam tilt (x, y) of the images, with RELION's sign, in milliradian; particles.star does not tell it."""
    keep_clean: bool = False
    """Write truth/clean.mrcs too: the images without noise, on the same scale."""


class SimulateVolume(StepConfig):
    """Make a volume of tissue with known truth, and what an electron microscope measures of it."""

    seed: int = Field(0, ge=0)
    """Seed of everything random: same settings, same bytes."""
    size_px: tuple[int, int, int] = (128, 128, 128)
    """Voxels of the true volume along z, y, x."""
    voxel_nm: float = Field(8.0, gt=0, le=100)
    """Voxel of the true volume, and pixel of the measured slices, in nanometre."""
    z_factor: float = Field(5.0, ge=1, le=16)
    """Distance of measured slices, in pixels; need not be whole."""
    section_thickness: float = Field(0.0, ge=0, le=1)
    """Depth that a slice averages, as a part of the slices' distance: 0 for block faces, 1 for cut sections."""
    file_format: str = Field("zarr", pattern=r"^(zarr|tiff)$")
    """Write OME-Zarr images, or TIFF stacks."""
    cell_diameter_nm: float = Field(350.0, gt=0, le=100000)
    """Mean diameter of the cells (neurites), in nanometre."""
    alignment: float = Field(0.2, ge=0, le=1)
    """How far the cells run alike: 0 not at all, 1 all the same way."""
    membrane_nm: float = Field(22.0, gt=0, le=1000)
    """Thickness of the two membranes between cells, in nanometre."""
    mitochondria_per_um3: float = Field(60.0, ge=0, le=10000)
    """Mitochondria that are tried for in a cubic micrometre; what finds no room in its cell is left out."""
    vesicles_per_um3: float = Field(500.0, ge=0, le=100000)
    """Vesicles in a cubic micrometre, in clusters; those that would touch a membrane are left out."""
    microtubules: float = Field(2.0, ge=0, le=1000)
    """Mean number of microtubules in a cell."""
    reticulum: float = Field(0.4, ge=0, le=1)
    """Part of the cells that hold sheets of endoplasmic reticulum."""
    nucleus_radius_nm: float = Field(0.0, ge=0, le=100000)
    """Radius of a nucleus near one of the corners, in nanometre; 0 for none."""
    grain: float = Field(1.0, ge=0, le=10)
    """Strength of the cytosol's grain, about 0.06 of a membrane's staining at 1; 0 for none."""
    blur_px: float = Field(0.6, ge=0, le=20)
    """Deviation of the microscope's blur, in pixels; 0 for none."""
    staining_variation: float = Field(0.1, ge=0, le=1)
    """Deviation of the staining's strength from place to place, as a part of it; 0 for none."""
    charging: float = Field(0.1, ge=0, le=10)
    """Strength of the bright trails that charged places leave along the scan (x), against the contrast; 0 for none."""
    curtains: float = Field(0.03, ge=0, le=10)
    """Deviation of the vertical streaks of ion milling, against the contrast; 0 for none."""
    jitter_px: float = Field(0.0, ge=0, le=100)
    """Deviation of each slice's shift along y and x, in pixels; 0 for aligned slices."""
    slice_brightness: float = Field(0.02, ge=0, le=1)
    """Deviation of each slice's brightness and contrast, as parts of the contrast; 0 for even slices."""
    electrons_per_px: float = Field(300.0, ge=0, le=10**9)
    """Counted electrons of an unstained pixel: their number scatters; 0 for an image without noise."""
    missing_slices: int = Field(0, ge=0, le=100000)
    """Slices that are lost: blank in the measured volume."""
    damaged_slices: int = Field(0, ge=0, le=100000)
    """Slices that are damaged: a fold, dirt, or out of focus."""
    labelled_slices: int = Field(0, ge=0, le=100000)
    """Good slices that come with the labels that a person would draw (labels); 0 for none."""


class SimulateScore(StepConfig):
    """Compare results with a simulated truth."""

    match_radius: float = Field(0.25, gt=0, le=2)
    """A pick is true within this distance of a particle, in longest diameters."""


STEPS: dict[str, type[StepConfig]] = {
    "session": SimulateSession,
    "particles": SimulateParticles,
    "volume": SimulateVolume,
    "score": SimulateScore,
}

"""Settings of the heterogeneity room."""

from typing import ClassVar

from pydantic import Field

from emflow.step import SpecimenSymmetry, StepConfig


class HeterogeneityFit(SpecimenSymmetry):
    """Fit V(z) = V0 + Σ z_k V_k: a latent coordinate z per particle, in two independent halves."""

    version: ClassVar[int] = 3
    components: int = Field(8, ge=1, le=64)
    """Components tried, at most; the halves' agreement decides how many are kept."""
    resolution_angstrom: float | None = Field(None, gt=0, le=200)
    """Finest detail used, in ångström; by default where the half-sets' mean maps cease to agree."""
    iterations: tuple[int, int, int, int] = (12, 6, 6, 4)
    """EM passes in each of four bands, 0.26, 0.45, 0.71 and 1 of the whole."""
    prior_gaussians: int = Field(10, ge=1, le=100)
    """Gaussians, at most, whose mixture is the coordinates' prior after the first band; 1 leaves them one Gaussian."""
    contrast_deviation: float = Field(0.1, gt=0, le=1)
    """First guess of the contrast's deviation from particle to particle; it is learnt."""
    evidence_deviations: float = Field(5.0, gt=0, le=100)
    """A component is kept if held-out images become likelier by this many standard errors."""
    evidence_nat: float = Field(0.02, ge=0)
    """A component is kept if a held-out image becomes likelier by this much on average, in nat."""
    agreement: float = Field(0.3, ge=0, lt=1)
    """A component is kept if its latents by the one half's model and by the other's correlate by this much."""
    warm_start: bool = True
    """In a project, when particles have been added: each half goes on from its own previous mean and components."""
    minimum_particles: int = Field(100, ge=10)
    """Fewer particles than this in a half-set say nothing about heterogeneity."""
    seed: int = 0
    """Seed of the random start."""


class HeterogeneityAnalyze(SpecimenSymmetry):
    """Find states in the latent coordinates, and volumes along them."""

    version: ClassVar[int] = 3
    states: int = Field(0, ge=0, le=100)
    """Number of states; 0 lets the Bayesian information criterion choose."""
    maximum_states: int = Field(10, ge=1, le=100)
    """Most states that the criterion may choose."""
    dimensions: int = Field(0, ge=0, le=64)
    """Leading latent coordinates that states are found in; 0 takes all."""
    volumes: int = Field(7, ge=2, le=100)
    """Volumes along each principal coordinate."""
    coordinates: int = Field(3, ge=0, le=64)
    """Principal coordinates along which volumes are made."""
    reach_percentile: float = Field(5.0, ge=0, lt=50)
    """Volumes reach from this percentile of the particles to its counterpart, so that none is extrapolated."""
    minimum_fraction: float = Field(0.02, ge=0, lt=1)
    """Smaller states than this fraction of the particles are not looked for."""
    half_maps: bool = True
    """Reconstruct raw half maps of each state from its particles, for validation."""
    prior_gaussians: int = Field(10, ge=1, le=100)
    """Gaussians, at most, of the prior that each particle's learnt coordinates are found under; 1 leaves them."""
    gaussians: int = Field(6, ge=1, le=50)
    """Gaussians, at most, that the density of the leading two coordinates is made of."""
    bootstraps: int = Field(20, ge=2, le=1000)
    """Times that the particles are drawn again, for the errors of the density and the stability of the states."""
    seed: int = 0
    """Seed of the clustering's starts and of the bootstraps."""


class HeterogeneityDecode(SpecimenSymmetry):
    """Decode volumes at given coordinates, each with its local confidence."""

    version: ClassVar[int] = 2
    method: str = Field("kernel", pattern=r"^(kernel|linear)$")
    """kernel: with what the images show beyond the linear model, by one pass over them; linear: without images."""
    functions: int = Field(16, ge=4, le=256)
    """Smooth functions of the coordinates that a volume may follow; the halves decide how far each counts."""
    width: float = Field(3.0, gt=0, le=100)
    """Width of the kernel that the functions are of, in the deviations of the coordinates."""
    seed: int = 0
    """Seed of the kernel's landmarks; of a symmetrical particle, that of the fit."""
    values: tuple[str, ...] = ()
    """Points, each as numbers with commas between: 0.5,-1. The coordinates left out are those of the particles nearby."""
    extrapolate: bool = False
    """Decode points that lie far from all particles too; otherwise they are refused."""
    reach: float = Field(1.5, gt=0)
    """A point is far if its neighbours are farther than this many times what 99 of 100 particles have."""
    half_volumes: bool = False
    """Write each half's own, unfiltered volume too, for validate local."""


class HeterogeneitySelect(StepConfig):
    """Select particles by a condition over columns, a state, nearness to a point, or density."""

    where: str = ""
    """Condition over columns, such as "z1 > 0.5 and state == 2"; z1 … are the coordinates."""
    state: tuple[int, ...] = ()
    """States that are taken."""
    near: str = ""
    """Point of latent space, numbers with commas between; the nearest particles of what the other criteria leave."""
    count: int = Field(1000, ge=1)
    """How many particles near the point."""
    density_above: float | None = Field(None, ge=0, lt=100)
    """Particles where the population is denser than about this percentage of all particles."""


class HeterogeneityTraverse(StepConfig):
    """Find a path through where the particles are dense; volumes along it, each particle's place on it."""

    enabled: bool = False
    """Whether a project does so after analyze."""
    start: str = ""
    """Point to begin at, numbers with commas between; by default the particles farthest apart are the ends."""
    end: str = ""
    """Point to end at, likewise."""
    points: int = Field(10, ge=2, le=1000)
    """Volumes along the path, at equal distances."""
    method: str = Field("path", pattern=r"^(path|curve)$")
    """path: the shortest path, smoothed; curve: a principal curve that begins from it."""
    neighbours: int = Field(15, ge=3, le=200)
    """Neighbours that each particle is joined with."""
    power: float = Field(2.0, ge=0, le=10)
    """How much the path avoids sparse places: an edge's cost grows with this power of the neighbours' distance."""
    loops: bool = True
    """Where no ends are given and the particles lie on a loop, go all the way round."""


class HeterogeneityCheck(SpecimenSymmetry):
    """Ask whether coordinates and states are real: in both halves, beyond chance, poses and contrast."""

    enabled: bool = False
    """Whether a project does so after analyze."""
    images: int = Field(5000, ge=100)
    """Images of each half, at most, that the checks look at, drawn at random."""
    deviations: float = Field(4.0, gt=0, le=100)
    """How far above chance, in its standard deviations, a coordinate or state must stand."""
    minimum_particles: int = Field(50, ge=2)
    """Of a state with fewer particles in a half nothing is said."""
    seed: int = 0
    """Seed of everything drawn at random."""


STEPS: dict[str, type[StepConfig]] = {
    "fit": HeterogeneityFit,
    "analyze": HeterogeneityAnalyze,
    "decode": HeterogeneityDecode,
    "select": HeterogeneitySelect,
    "check": HeterogeneityCheck,
    "traverse": HeterogeneityTraverse,
}

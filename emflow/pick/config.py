"""Settings of the pick room."""

from typing import ClassVar

from pydantic import Field

from emflow.pick.config_assess import PickAssess, PickSize
from emflow.pick.config_filaments import PickFilaments
from emflow.pick.config_tools import PickConsensus, PickExport, PickScore, PickTrain
from emflow.step import OpticsFacts, SpecimenContrast, SpecimenSize, StepConfig


class PickApply(OpticsFacts, SpecimenSize, SpecimenContrast):
    """Find particles in each micrograph, with a template learnt from it or with the general network."""

    version: ClassVar[int] = 2

    method: str = Field("template", pattern=r"^(template|network|log|references)$")
    """How to pick: template learns a radial template from the micrograph itself; network knows particles of any shape
    and contamination from simulated sessions (docs/pick-network.md says which does better where). Classical ways, for
    comparison, cold starts and consensus: log takes blobs by the Laplacian; references are projections of a map or
    class averages."""
    references: str | None = None
    """For the method references: a map (MRC) or class averages (.mrcs), protein bright, pixel size in the header."""
    references_spacing_deg: float = Field(30.0, ge=5, le=90)
    """Spacing of the orientations of a map, or of the turns of class averages, in degrees; a map at 30 has 550."""

    pixels: str = Field("raw", pattern=r"^(raw|denoised)$")
    """What is looked at: raw pixels, or those of `denoise apply` (column emflowDenoisedName). Raw is the default because
    this picker flattens noise by itself and finds more there; see docs/pick.md."""
    diameter_px: float = Field(28.0, ge=12, le=200)
    """Diameter of the particle in the binned image on which the template works, in its pixels; finer images are binned
    to it, coarser ones stay as they are. The network's is fixed."""
    normalise_diameters: float = Field(1.4, gt=0.2, le=20)
    """Standard deviation of the Gaussian window of the template's local mean and deviation, in particle diameters."""
    rounds: int = Field(3, ge=0, le=20)
    """Rounds in which the template is learnt again from the best picks; 0 keeps the best of a few soft disks."""
    min_distance: float = Field(0.6, ge=0.1, le=5)
    """Smallest distance between two picks, in particle diameters."""
    edge_distance: float = Field(0.25, ge=0, le=5)
    """Smallest distance of a pick from the image's border, in particle diameters: at a quarter, 80 % of a round
    particle is inside."""
    false_discovery_rate: float = Field(0.05, gt=0, lt=1)
    """Expected fraction of noise (for the network: of anything but particles) among the picks of a micrograph: this
    sets the threshold."""
    min_probability: float = Field(0.5, ge=0, lt=1)
    """Lowest probability of a pick to be a particle; the threshold obeys this and the false-discovery rate."""
    mask_contamination: bool = True
    """Find carbon edges, ice and aggregates, and pick nothing there."""
    mask_strength: float = Field(8.0, gt=1, le=100)
    """Steepness or roughness from which something is contamination, in robust deviations from the micrograph's median;
    never less than twice what its particles have. For the template; the network has a mask of its own."""
    mask_margin: float = Field(0.25, ge=0, le=5)
    """Width by which contamination is grown, in particle diameters, for the template."""
    score_spread: float = Field(2.0, gt=1, le=1000)
    """The template's picks whose score differs from the micrograph's median by more than this factor are left out: above
    it is contamination, below it are fragments and overlaps."""
    weights: str | None = None
    """Model of `pick train` (model.safetensors or its folder) to pick with, in place of either method."""


class PickImport(OpticsFacts):
    """Take somebody's coordinates instead of picking."""

    version: ClassVar[int] = 2


STEPS: dict[str, type[StepConfig]] = {
    "apply": PickApply,
    "import": PickImport,
    "assess": PickAssess,
    "consensus": PickConsensus,
    "export": PickExport,
    "filaments": PickFilaments,
    "score": PickScore,
    "size": PickSize,
    "train": PickTrain,
}

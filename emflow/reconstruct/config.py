"""Settings of the reconstruct room."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from emflow.step import SpecimenSize, SpecimenSymmetry, StepConfig


class ReconstructAbinitio(SpecimenSize, SpecimenSymmetry):
    """Find a first map from random starts, in each half-set on its own."""

    version: ClassVar[int] = 3
    n_starts: int = Field(12, ge=1, le=1000)
    """Random starts in each half-set, in a low band where they are cheap."""
    max_starts: int = Field(48, ge=1, le=10000)
    """While the two half-sets' maps do not agree beyond chance, or are not alike as a whole, each half-set makes as many
    starts again, up to this number."""
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

    version: ClassVar[int] = 4
    start_lowpass_angstrom: float | None = Field(None, gt=1, le=500)
    """First maps that are not known to come from separate random starts are filtered to this resolution: what the
    halves agree on beyond it is the particles' own. null takes a fifth of the diameter, divided by the cube root of
    the symmetry's order."""
    warm_start: bool = True
    """Where the start is an earlier refinement that knew at least half of the particles: keep their poses, search
    all orientations of the new particles only, and go on with local iterations."""
    max_iterations: int = Field(15, ge=1, le=100)
    """Iterations at most; it stops when two in a row bring no finer shell."""
    global_iterations: int = Field(2, ge=0, le=100)
    """Iterations that search all orientations; later ones search around the last pose."""
    shift_fraction: float = Field(0.05, ge=0, le=0.5)
    """How far off its box's centre a particle may be in a global search, in diameters."""
    solvent_mask: bool = True
    """Mask each half's reference by its own solvent mask; otherwise by a sphere only."""
    regularisation: str = Field("shells", pattern=r"^(shells|local)$")
    """Filter of the references: shells, one SSNR for all of the map; local, by what each region predicts of the
    other half."""
    sharpening_bfactor_angstrom2: float | None = Field(None, ge=-2000, le=2000)
    """B factor of map.mrc, in Å², negative to sharpen; null fits it where the map reaches 7.5 Å, else 0. Half
    maps are never sharpened."""
    seed: int = 0
    """Seed of the turns of the global grid."""


class ReconstructCtf(SpecimenSize, SpecimenSymmetry):
    """Refine the CTF at fixed poses: defocus of each particle, astigmatism, beam tilt, envelope, contrast."""

    version: ClassVar[int] = 2
    enabled: bool = False
    """Whether the workflow runs this step; the command itself always does."""
    defocus: str = Field("particle", pattern=r"^(particle|micrograph|none)$")
    """Defocus of each particle (one for its micrograph where the images tell no more), of micrographs only, or none."""
    astigmatism: str = Field("micrograph", pattern=r"^(micrograph|group|none)$")
    """Astigmatism of each micrograph, of each optics group in each half-set, or none."""
    beam_tilt: bool = True
    """Beam tilt of each optics group; needs a spherical aberration above 0."""
    envelope: bool = True
    """Scale and B factor of each micrograph, by which its particles are weighed (rlnCtfScalefactor, rlnCtfBfactor)."""
    search_range_angstrom: float = Field(2000.0, gt=100, le=20000)
    """How far from the table's value a defocus may be, in Å."""
    lowest_resolution_angstrom: float = Field(30.0, gt=5, le=500)
    """Coarser detail says little about the defocus and much about the solvent: it is left out."""


class ReconstructSharpen(SpecimenSize, SpecimenSymmetry):
    """Sharpen the mean of two raw half maps, as a whole and voxel by voxel."""

    voxel_size_angstrom: float | None = Field(None, gt=0, le=100)
    """Voxel size of the maps, in ångström; by default the one in their headers."""
    bfactor_angstrom2: float | None = Field(None, ge=-2000, le=2000)
    """B factor, in Å²: negative sharpens; null fits it (Guinier plot) where the map reaches far enough for that."""
    bfactor_fit_from_angstrom: float = Field(10.0, gt=0, le=100)
    """Coarsest resolution of the fit; the map must be finer by a third, and by five shells."""
    bfactor_fit_to_angstrom: float | None = Field(None, gt=0, le=100)
    """Finest resolution of the fit, in ångström; null takes the map's resolution."""
    lowpass_angstrom: float | None = Field(None, gt=0, le=200)
    """Low-pass of map_sharpened.mrc, in ångström; null takes the map's resolution."""
    mtf_pixel_size_angstrom: float | None = Field(None, gt=0, le=100)
    """Pixel size that the frequencies of the MTF table refer to: that of the detector. null takes the voxel size."""
    threshold: float = Field(0.143, gt=0, lt=1)
    """Local FSC between the half maps down to which map_local.mrc keeps a band at a voxel."""
    noise_level: float = Field(0.01, gt=0, lt=0.5)
    """Share of points of pure noise that may pass a band: no lower local FSC is believed."""
    window_wavelengths: float = Field(1.0, ge=0.4, le=5)
    """Standard deviation of the window of the local FSC, in wavelengths of each band."""


class ReconstructClasses(SpecimenSize, SpecimenSymmetry):
    """Sort particles into classes, in each half-set on its own."""

    n_classes: int = Field(1, ge=1, le=64)
    """Classes. In a project the step runs only where there are at least 2."""
    poses: str = Field("local", pattern=r"^(fixed|local|global)$")
    """fixed keeps the given poses; local searches around them; global searches all orientations, from a start map."""
    mask: Path | None = None
    """Soft mask (MRC, of the images' extent) where classes may differ; outside of it they share one map. null: anywhere."""
    relax_symmetry: str = Field("C1", pattern=r"^([CD][1-9]\d?|T|O|I)$")
    """Pseudo-symmetry: each particle chooses among the group's operators. The maps have only sample.symmetry."""
    n_starts: int = Field(2, ge=1, le=100)
    """Random starts in each half-set; the one whose held-out likelihood is highest goes on."""
    n_iterations: int = Field(40, ge=2, le=1000)
    """Iterations of a start at most."""
    pose_rounds: int = Field(2, ge=0, le=20)
    """How often poses are searched again against the classes' maps; the first time everywhere where poses is global."""
    resolution_angstrom: float | None = Field(None, gt=1, le=500)
    """Finest detail that is compared, if the mean map reaches it. null takes a sixteenth of the diameter, divided by
    the cube root of the symmetry's order."""
    start_resolution_angstrom: float | None = Field(None, gt=1, le=500)
    """Low-pass of a start map. null takes a fifth of the diameter."""
    shift_fraction: float = Field(0.05, ge=0, le=0.5)
    """How far off its box's centre a particle may be in a global search, in diameters."""
    seed: int = 0
    """Seed of the folds, the starts and the turns of the global grid."""


class ReconstructSubtract(StepConfig):
    """Subtract from each image the projection of what lies outside a mask."""

    scale: str = Field("none", pattern=r"^(none|set|image)$")
    """Fit of the map's contrast to the images: none (maps of emflow fit as they are), one for each half-set, or image."""
    recenter: bool = True
    """Move the mask's centre of mass to the middle of the new boxes, by whole pixels; rlnOriginX/YAngst holds the rest."""
    box_px: int | None = Field(None, ge=16, le=4096, multiple_of=2)
    """Side of the new boxes, in pixels. null keeps that of the images."""


class ReconstructExpand(StepConfig):
    """Write each particle once for every operator of a point group."""

    expand_symmetry: str = Field("C1", pattern=r"^([CD][1-9]\d?|T|O|I)$")
    """Point group whose operators are applied (axes as in RELION)."""


class ReconstructSymmetry(SpecimenSize):
    """Find the point group of a map that was made without symmetry, and turn it into the group's frame."""

    seed: int = 0
    """Seed of the random frames that each group is compared with."""


STEPS: dict[str, type[StepConfig]] = {
    "abinitio": ReconstructAbinitio,
    "symmetry": ReconstructSymmetry,
    "refine": ReconstructRefine,
    "ctf": ReconstructCtf,
    "sharpen": ReconstructSharpen,
    "classes": ReconstructClasses,
    "subtract": ReconstructSubtract,
    "expand": ReconstructExpand,
}

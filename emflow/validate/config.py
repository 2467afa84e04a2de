"""Settings of the validate room."""

from pydantic import Field

from emflow.step import SpecimenSize, SpecimenSymmetry, StepConfig


class MaskedMaps(StepConfig):
    """Maps, and the mask that is made where none is given."""

    voxel_size_angstrom: float | None = Field(None, gt=0, le=100)
    """Voxel size of the maps, in ångström; by default the one in their headers."""
    mask_lowpass_angstrom: float = Field(15.0, gt=0, le=200)
    """Automatic mask: low-pass of the map before the threshold, in ångström."""
    mask_threshold_deviations: float = Field(4.0, gt=0, le=50)
    """Automatic mask: threshold above the solvent, in the solvent's standard deviations."""
    mask_dilate_angstrom: float = Field(6.0, ge=0, le=200)
    """Automatic mask: how far it reaches beyond the threshold, in ångström."""
    mask_edge_angstrom: float = Field(12.0, ge=0, le=200)
    """Automatic mask: width of its soft edge outside of that, in ångström; at least five voxels."""


class HalfMaps(MaskedMaps, SpecimenSize, SpecimenSymmetry):
    """How two half maps are compared."""

    randomise_below: float = Field(0.8, gt=0.143, lt=1)
    """Phases are randomised from the first shell where the unmasked FSC falls below this value."""
    randomisations: int = Field(3, ge=1, le=100)
    """Random phases drawn; their FSC curves are averaged, which steadies the corrected curve."""
    seed: int = 0
    """Seed of the random phases."""


class ValidateMaps(HalfMaps):
    """Judge two half maps: Fourier shell correlation, resolution, mask, sharpening, angular distribution, model."""

    hand: bool = True
    """Ask the map for its hand: whether its α-helices are right-handed, where they are resolved."""
    contour_level: float | None = None
    """With a model: contour of the map at which atoms count as inside; by default the one of the model's volume."""
    bfactor_angstrom2: float | None = Field(None, ge=-2000, le=2000)
    """B factor of the sharpened map, in Å²: negative sharpens; by default it is fitted (Guinier plot)."""
    bfactor_fit_from_angstrom: float = Field(10.0, gt=0, le=100)
    """Coarsest resolution of the fit of the B factor, in ångström."""
    bfactor_fit_to_angstrom: float | None = Field(None, gt=0, le=100)
    """Finest resolution of the fit, in ångström; by default the map's resolution."""
    lowpass_angstrom: float | None = Field(None, gt=0, le=200)
    """Low-pass of the sharpened map, in ångström; by default the map's resolution."""

    double_distance_fraction: float = Field(0.2, gt=0, lt=1)
    """Particles of one micrograph closer than this fraction of the diameter count as one that was picked twice."""


class ValidateStates(HalfMaps):
    """Judge each state of a heterogeneity analysis by its own half maps."""


class ValidateLocal(MaskedMaps):
    """Local resolution of two half maps, or of one map, and the map filtered by it."""

    method: str = Field("halves", pattern=r"^(halves|monogenic)$")
    """halves: Fourier correlation of the half maps in a window; monogenic: amplitudes of one map against its noise."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Local FSC between half maps that counts as resolved."""
    noise_level: float = Field(0.01, gt=0, lt=0.5)
    """Share of points of pure noise that may pass a band: no lower correlation is believed, whatever the threshold."""
    window_wavelengths: float = Field(1.0, ge=0.4, le=5)
    """Standard deviation of the Gaussian window, in wavelengths of each band."""


class ValidateParticles(HalfMaps):
    """Judge the map by the raw images: over-fitting, agreement of each image, resolution against number."""

    band_resolution: float = Field(1.3, ge=1, le=10)
    """How far beyond the half maps' resolution the images are looked at, as a factor in frequency; and four shells."""
    overfitting_fraction: float = Field(0.1, gt=0, lt=1)
    """Part of a half map's power beyond the resolution that may be noise which the poses follow, before it is warned of."""
    outlier_fraction: float = Field(0.1, gt=0, le=1)
    """Part of the images that may be outliers before it is warned of."""
    target_angstrom: float | None = Field(None, gt=0, le=100)
    """Resolution for which the number of particles is estimated; by default that of twice as many."""


class NoiseControl(HalfMaps):
    """Replace the fine detail of every image by noise, refine again, and see what the halves agree on."""

    from_angstrom: float | None = Field(None, gt=0, le=200)
    """Phases finer than this are random; by default where the half maps' unmasked FSC falls below `randomise_below`."""


class NoiseCompare(HalfMaps):
    """Compare the half maps of a refinement with those of its noise control."""


STEPS: dict[str, type[StepConfig]] = {
    "maps": ValidateMaps,
    "states": ValidateStates,
    "local": ValidateLocal,
    "particles": ValidateParticles,
    "noise_control": NoiseControl,
    "noise_compare": NoiseCompare,
}

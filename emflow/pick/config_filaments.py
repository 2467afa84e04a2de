"""Settings of picking filaments."""

from pydantic import Field

from emflow.step import OpticsFacts, SpecimenContrast


class PickFilaments(OpticsFacts, SpecimenContrast):
    """Find filaments, and places at equal distances along them."""

    filament_width_angstrom: float | None = Field(None, gt=10, le=2000)
    """Width of the filament, in ångström; must be given."""
    spacing_angstrom: float | None = Field(None, gt=1, le=10000)
    """Distance of neighbouring segments along the axis, in ångström: a few times the helical rise; null: half the width."""
    min_length_angstrom: float | None = Field(None, gt=0, le=100000)
    """Shortest filament, in ångström; null: six widths."""
    width_px: float = Field(10.0, ge=6, le=50)
    """Width of the filament in the binned image that is searched, in its pixels; coarser images stay as they are."""
    template_widths: float = Field(6.0, ge=2, le=30)
    """Length of the piece of a filament that is looked for, in widths: longer ones see weaker filaments, shorter ones more
    bent ones."""
    orientations: int = Field(36, ge=8, le=180)
    """Directions that are tried, over half a turn."""
    false_filaments: float = Field(0.02, gt=0, lt=1)
    """Filaments that noise is expected to give in a micrograph: this sets the threshold."""
    max_unevenness: float = Field(0.15, ge=0, le=100)
    """Most that the density along a filament varies beyond the noise: its variance over its squared mean. A row of
    particles varies more; ribbons with a wide and a narrow side may need 0.5."""
    max_gap_widths: float = Field(4.0, ge=0, le=50)
    """Longest gap over which two pieces of like direction are one filament, in widths."""
    crossing_widths: float = Field(1.5, ge=0, le=50)
    """Segments nearer than this to another filament's axis are left out, in widths."""
    mask_contamination: bool = True
    """Find carbon edges, ice and aggregates, and pick nothing there."""
    mask_strength: float = Field(8.0, gt=1, le=100)
    """Steepness or roughness from which something is contamination; as in pick.apply, but what the filaments themselves
    have is never contamination."""
    figures: int = Field(6, ge=0, le=10000)
    """Micrographs that are drawn with their filaments, spread over the table."""

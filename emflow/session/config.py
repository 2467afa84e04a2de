"""Settings of the session room."""

from pydantic import Field

from emflow.step import OpticsFacts, SpecimenContrast, StepConfig


class SessionFind(OpticsFacts):
    """List the micrographs and divide them into shards; reads no pixel."""

    shard_size: int = Field(100, gt=0, le=10000)
    """Micrographs of one shard, that is, of one job. Shards that are full keep their members for ever."""


class SessionCheck(SpecimenContrast, OpticsFacts):
    """Read each micrograph once, set bad ones aside, assign half-sets, detect the contrast."""

    max_blank_fraction: float = Field(0.2, ge=0, le=1)
    """A micrograph is set aside if more than this fraction of its rows or columns holds one single value."""
    max_header_pixel_deviation: float = Field(0.05, gt=0)
    """A micrograph is set aside if the pixel size in its header deviates from that of most by this fraction."""
    contrast_micrographs: int = Field(20, gt=0)
    """Micrographs of a shard, the first good ones, from which the contrast is detected."""
    contrast_significance: float = Field(5.0, gt=0)
    """Standard errors that a detected contrast must stand above noise; below it is unknown, and dark is taken."""


class SessionSelect(StepConfig):
    """Join what the steps found out about each micrograph and decide which go on. Lenient by default."""

    max_ctf_resolution_angstrom: float | None = Field(50.0, gt=0)
    """Reject micrographs whose CTF fits to no better than this resolution; null accepts any."""
    min_picks: int = Field(0, ge=0)
    """Reject micrographs with fewer picks."""
    max_masked_fraction: float = Field(1.0, ge=0, le=1)
    """Reject micrographs of which more than this fraction is masked as carbon or contamination."""
    assessment: str = Field("off", pattern=r"^(off|tell|reject)$")
    """What becomes of `pick assess`: off, it is not made; tell, its figures and reasons stand in the quality table; reject,
    micrographs that it calls bad are rejected, with the reason."""
    excluded_micrographs: str = "labels/excluded_micrographs.txt"
    """A person's list of micrographs to leave out, one name (or id) a line; it need not exist."""


class SessionJoin(StepConfig):
    """Join the shards' quality tables; find duplicates and odd shapes across shards."""


STEPS = {"find": SessionFind, "check": SessionCheck, "select": SessionSelect, "join": SessionJoin}

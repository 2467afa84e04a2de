"""Settings of ``emflow watch``."""

from pydantic import Field

from emflow.step import StepConfig


class Watch(StepConfig):
    """How `emflow watch` follows an acquisition. Reruns nothing, and is not stored with the results."""

    look_every_s: float = Field(10.0, gt=0)
    """Time between two looks at the folder, in seconds."""
    settle_s: float = Field(60.0, ge=0)
    """A file is ready once its size and time, and those of what belongs to it, have not changed for so long."""
    give_up_s: float = Field(1800.0, ge=0)
    """A file that has settled but is cut short or lacks its sidecar is passed on after so long, to be set aside."""
    sidecar: str | None = Field(None, pattern=r"\{(name|file)\}")
    """File that must lie beside each micrograph: a pattern with {name} (base name without suffix), {file} (base name) or
    {folder}, such as {folder}/{file}.mdoc."""
    sidecar_without: str = ""
    """Ending of the base name that the sidecar's name lacks, such as _fractions."""
    cycle_every_s: float = Field(120.0, ge=0)
    """Least time between the starts of two runs of snakemake, in seconds."""
    pooled_minimum_particles: int = Field(5000, ge=0)
    """The pooled steps (first map to validation) run first when there are so many particles. They
    never run if the four keys that follow are null."""
    pooled_growth: float | None = Field(1.5, gt=1)
    """They run again when the particles have grown by this factor."""
    pooled_new_particles: int | None = Field(None, gt=0)
    """They run again after so many new particles."""
    pooled_hours: float | None = Field(None, gt=0)
    """They run again after so many hours, if there are new particles."""
    pooled_idle_minutes: float | None = Field(120.0, gt=0)
    """They run once more when nothing new has come for so long: the end of the session."""
    stall_minutes: float | None = Field(30.0, gt=0)
    """Alarm when no new micrograph has come for so long after some had come; null: no alarm."""
    drop_micrographs: int = Field(30, ge=5, le=10000)
    """The medians of the last so many micrographs are compared with those of the session before them."""
    ctf_drop_factor: float | None = Field(1.3, gt=1)
    """Alarm when the median resolution of the CTF fits is worse by this factor; null: no alarm."""
    picks_drop_factor: float | None = Field(0.5, gt=0, lt=1)
    """Alarm when the median number of picks is below this fraction; null: no alarm."""
    disk_free_gb: float | None = Field(50.0, ge=0)
    """Alarm when the disk of the results or of the micrographs has less space left, in gigabyte; null: no alarm."""
    disk_hours: float | None = Field(6.0, gt=0)
    """Alarm when that disk will be full within so many hours at the present rate; null: no alarm."""
    webhook: str | None = Field(None, pattern=r"^https?://\S+$")
    """Address to which each alarm is posted as JSON (with a key text, as Slack and Mattermost take it)."""
    mail: list[str] = []
    """Command, as a list of words, that gets each alarm as text on its standard input, such as
    [mail, -s, "{subject}", me@example.org]."""

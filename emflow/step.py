"""What every step's settings are made of.

A step's settings are one frozen pydantic model in its room's ``config.py``: the only place where a
parameter is written. The YAML with its comments, the JSON schema, ``--help`` and the Snakemake
params are all made from it. This module imports nothing heavy.
"""

from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict, Field


class EmflowError(Exception):
    """Something the user can mend: what is wrong, where, what was expected, what to do."""


class OutOfMemory(EmflowError):
    """Not even the smallest piece of work fits in memory: a fault of the machine, never of one image."""


class Judgement(NamedTuple):
    """One row of verdicts.json."""

    question: str
    verdict: str
    """pass, warn, fail or unknown."""
    evidence: str
    action: str = ""


@Parameter(name="*")  # flat flags: --patch-size, not --cfg.patch-size; inherited by every section
class StepConfig(BaseModel):
    """Base of all settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    version: ClassVar[int] = 1
    """Raised whenever the step's results change; part of what triggers a rerun."""


class OpticsFacts(StepConfig):
    """Facts about the microscope and the images; a table's optics group wins over them."""

    pixel_size_angstrom: float | None = Field(None, gt=0, le=100)
    """Pixel size of the micrographs, in ångström. Must be given unless the input table has it; headers are not trusted."""
    voltage_kv: float = Field(300.0, gt=0, le=3000)
    """Acceleration voltage, in kilovolt."""
    cs_mm: float = Field(2.7, ge=0, le=20)
    """Spherical aberration, in millimetre; 0 for a corrected microscope."""
    amplitude_contrast: float = Field(0.07, ge=0, lt=1)
    """Fraction of amplitude contrast: about 0.07 for ice, 0.1 by older custom."""


class Session(StepConfig):
    """One of several sessions that are processed together; what it does not say holds for all."""

    path: str
    """Its micrographs: a folder, a glob, a text file with one path a line, or a RELION micrographs STAR."""
    even: str | None = None
    """Even half sums, in the place of input.even."""
    odd: str | None = None
    """Odd half sums, in the place of input.odd."""
    pixel_size_angstrom: float | None = Field(None, gt=0, le=100)
    """Pixel size of its micrographs, in ångström, in the place of the sample's."""
    voltage_kv: float | None = Field(None, gt=0, le=3000)
    """Acceleration voltage, in kilovolt, likewise."""
    cs_mm: float | None = Field(None, ge=0, le=20)
    """Spherical aberration, in millimetre, likewise."""
    amplitude_contrast: float | None = Field(None, ge=0, le=1)
    """Fraction of amplitude contrast, likewise."""

    def facts(self) -> dict[str, float]:
        """The optics that it says itself."""
        told = {name: getattr(self, name) for name in OpticsFacts.model_fields}
        return {name: value for name, value in told.items() if value is not None}


class SpecimenSize(StepConfig):
    """How large the particle is."""

    diameter_angstrom: float | None = Field(None, gt=10, le=5000)
    """Longest diameter of the particle, in ångström."""


class SpecimenSymmetry(StepConfig):
    """Point group of the particle."""

    symmetry: str = Field("C1", pattern=r"^([CD][1-9]\d?|T|O|I)$")
    """Point group: C1, Cn, Dn, T, O or I (axes as in RELION)."""


class SpecimenContrast(StepConfig):
    """Whether protein is dark or bright in the micrographs."""

    contrast: str = Field("auto", pattern=r"^(auto|dark|bright)$")
    """Protein in the micrographs: dark (usual), bright, or auto to detect and report it."""


class Sample(OpticsFacts, SpecimenSize, SpecimenSymmetry, SpecimenContrast):
    """The specimen and the microscope. Stands once; reaches only the steps that declare these facts."""


class Execution(StepConfig):
    """How to run. Never part of what triggers a rerun; changes no result beyond rounding."""

    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")
    """Where tensors live: auto takes a GPU where there is one."""
    threads: int = Field(0, ge=0, le=1024)
    """CPU threads of one job; 0 takes what Snakemake or the machine gives."""
    memory_gb: float = Field(0.0, ge=0)
    """Memory a step may plan with, in gigabyte; 0 takes what is free."""
    image_limit_minutes: float = Field(20.0, gt=0)
    """How long a step may work on one micrograph before it counts as hung, in minutes."""

    keep_denoised: bool = False
    """Keep denoised micrographs after picking from them: as large as the micrographs, in float32. Otherwise only those
    that the report shows are kept. Those of a simulated session, which are scored, always are."""
    scratch: str | None = None
    """Folder on the node's own disk for copies that long steps read again and again, such as $TMPDIR or
    $SLURM_TMPDIR; null keeps them beside the results. Nothing is lost with it."""
    gpus: int = Field(1, ge=0, le=64)
    """GPUs of one job, for steps that can use several (reconstruct refine, denoise train); the others take one."""
    jobs_per_gpu: int = Field(1, ge=1, le=16)
    """Jobs that may share a GPU. The profile's resource gpu is then the number of GPUs times this."""


class Run(Execution):
    """What every command takes beside its step's settings."""

    record: Path | None = None
    """Where to write the record of the run (JSON): command, settings, inputs, versions, cost."""


def own_fields(model: type[StepConfig]) -> dict[str, Any]:
    """Fields that belong to the step's own section, without the sample's facts it declares."""
    return {name: field for name, field in model.model_fields.items() if name not in Sample.model_fields}


def sample_fields(model: type[StepConfig]) -> list[str]:
    """Names of the sample's facts that the step declares."""
    return [name for name in model.model_fields if name in Sample.model_fields]

"""What a fit begins with: random components, or each half's own of the previous fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import torch

from emflow.heterogeneity.config import HeterogeneityFit
from emflow.heterogeneity.fit import Models, Stage
from emflow.heterogeneity.model import Model
from emflow.io.kept import Kept, why_anew
from emflow.io.record import lineage_of

STAGE = "stage.safetensors"


@dataclass(frozen=True)
class Origin:
    """What a fit begins with."""

    why: str
    """In words, for the record."""
    anew_particles: int
    """Particles when components were last found from nothing."""
    models: Models | None = None
    """Each half's own model of the previous fit, in units of ``scale``."""
    scale: float = 1.0
    key: str = ""
    particles: int = 0
    """Of the previous fit."""

    def in_units_of(self, scale: float) -> Models | None:
        """The models in other units; the noise is not carried over."""
        if self.models is None:
            return None
        first, second = (replace(m, volumes=m.volumes * (self.scale / scale)) for m in self.models)
        return first, second


def find_origin(
    kept: Kept | None, particles: int, box: int, cfg: HeterogeneityFit, device: torch.device
) -> Origin:
    """Decide what to begin with.

    The kept previous fit, if it was made under the same settings with boxes of the same size, and not more than
    half of the particles have come since components were last found from nothing.
    """
    before = kept.previous() if kept is not None and cfg.warm_start else None
    if before is None:
        return Origin("from random components: there is no previous fit, or warm_start is off", particles)
    folder, made = before
    refused = why_anew(made, lineage_of("heterogeneity.fit") or "", particles)
    if refused:
        return Origin(f"from random components: {refused}", particles)
    stage, about = read_stage(folder / STAGE, device)
    if about["box"] != str(box) or stage.models[0].components != cfg.components:
        return Origin("from random components: the images have another box", particles)
    return Origin(
        f"from the previous fit ({folder.name})",
        made.anew_particles,
        stage.models,
        float(about["scale"]),
        made.key,
        made.particles,
    )


def read_stage(path: Path, device: torch.device) -> tuple[Stage, dict[str, str]]:
    """Read both halves' models after a band, and what is told about them."""
    with safetensors.safe_open(path, framework="pt") as held:
        about = held.metadata()
        models = [
            Model(
                held.get_tensor(f"volumes{half}").to(device),
                float(held.get_tensor(f"contrast{half}")),
                held.get_tensor(f"noise{half}").to(device),
            )
            for half in (0, 1)
        ]
    warm = about["warm"] == "1"
    return Stage(int(about["number"]), float(about["band"]), (models[0], models[1]), warm), about

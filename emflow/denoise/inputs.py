"""What the denoise room reads: models, and the images of a micrograph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from emflow.denoise.restorer import Restorer
from emflow.denoise.scale import Scale
from emflow.denoise.train import Sample, sample_of_clean, sample_of_halves, sample_of_one
from emflow.io.examples import choose
from emflow.io.image import read_image
from emflow.io.incoming import list_micrographs
from emflow.io.micrographs import Micrographs, load_micrographs
from emflow.io.star import concat
from emflow.nn.unet import UNet, on_device
from emflow.nn.weights import Model, read_kind, read_model
from emflow.step import EmflowError, OpticsFacts, SpecimenContrast

GENERAL = Path(__file__).parent / "weights" / "general.safetensors"
"""The model that emflow ships."""
GENERAL_RESTORER = GENERAL.with_name("restorer.safetensors")
"""What samples that model's error."""
RESTORER = "restorer"
"""Kind of network, as manifests name it."""
_HALVES = ("emflowEvenName", "emflowOddName")
_CLEAN = "emflowCleanName"


def load_model(weights: str | None, device: torch.device) -> tuple[UNet, Scale, Model]:
    """Read a model, or the general one, and build its network in evaluation mode.

    Raises
    ------
    EmflowError
        If files are missing, changed, or not a denoising model's.
    """
    path = Path(weights) if weights else GENERAL
    model = read_model(path)
    if model.network.get("kind") != "unet":
        raise EmflowError(f"{path}: a network of kind {model.network.get('kind')!r}; expected unet.")
    network = UNet([int(n) for n in model.network["widths"]])
    try:
        network.load_state_dict(model.state)
    except RuntimeError as error:
        raise EmflowError(f"{path}: the weights do not fit the manifest's network: {error}") from None
    return on_device(network, device).eval().requires_grad_(False), Scale.of(model.facts), model


def load_restorer(weights: str | None, mean: Model, device: torch.device) -> tuple[Restorer, float, Model]:
    """Read a restorer, or the general one, and how much wider than it tells errors are.

    Raises
    ------
    EmflowError
        If files are missing or changed, or it learned the error of another model than ``mean``.
    """
    path = Path(weights) if weights else GENERAL_RESTORER
    model = read_kind(path, RESTORER, "denoise train-restorer", "restorer.safetensors")
    if model.facts["mean"] != mean.sha256:
        raise EmflowError(
            f"{path}: it learned the error of another model (checksum {model.facts['mean'][:12]}…) than the one that "
            f"denoises here ({mean.sha256[:12]}…). Train one beside it with `emflow denoise train-restorer`, or leave "
            "denoise.apply.weights and restorer at null."
        )
    restorer = Restorer([int(n) for n in model.network["widths"]])
    restorer.load_state_dict(model.state)
    for network in (restorer.deviation, restorer.flow):
        on_device(network, device)
    return restorer.to(device).eval().requires_grad_(False), float(model.facts["widening"]), model


def chosen_examples(listed: Micrographs, count: int) -> Micrographs:
    """Choose micrographs that show the range of a table."""
    rows = sorted(row for row, _ in choose(listed.table, count))
    return Micrographs(listed.table.iloc[rows].reset_index(drop=True), listed.optics)


def load_tables(
    sources: Sequence[Path], facts: OpticsFacts, even: str | None, odd: str | None
) -> Micrographs:
    """Load micrographs of one or several tables with one table of optics, or of plain files with their halves."""
    if len(sources) == 1 and (even or odd or not str(sources[0]).endswith(".star")):
        table, optics = list_micrographs(str(sources[0]), facts, even, odd)
        return Micrographs(table, optics)
    loaded = [load_micrographs(source, facts) for source in sources]
    optics = pd.concat([part.optics for part in loaded]).drop_duplicates(ignore_index=True)
    return Micrographs(concat(part.table for part in loaded), optics)


def spread_over(micrographs: Micrographs, most: int) -> Micrographs:
    """Take at most so many micrographs, evenly over the list."""
    count = len(micrographs)
    rows = range(count) if count <= most else [i * count // most for i in range(most)]
    return Micrographs(micrographs.table.iloc[list(rows)].reset_index(drop=True), micrographs.optics)


def is_bright(micrographs: Micrographs, row: int, contrast: str) -> bool:
    """Whether protein is bright: as set, or as the session found; dark where neither says."""
    if contrast == "auto" and "emflowContrast" in micrographs.table:
        contrast = str(micrographs.table["emflowContrast"].iloc[row])
    return contrast == "bright"


def what_is_learned_from(micrographs: Micrographs, target: str) -> str:
    """Return halves, single or clean, as the settings ask and the table can give.

    Raises
    ------
    EmflowError
        If the table lacks the images that are asked for.
    """
    with_halves = sum(halves_of(micrographs, row) is not None for row in range(len(micrographs)))
    if target == "auto":
        return "halves" if with_halves else "single"
    if target == "halves" and not with_halves:
        raise EmflowError(
            "denoise.train.target is halves, but no micrograph has half sums (columns _emflowEvenName and "
            "_emflowOddName). Give input.even and input.odd (--even, --odd), or set target to auto."
        )
    if target == "clean" and _CLEAN not in micrographs.table:
        raise EmflowError(
            f"denoise.train.target is clean, but the table has no column _{_CLEAN}: only simulated sessions "
            "have noise-free images. Set target to auto."
        )
    return target


def halves_of(micrographs: Micrographs, row: int) -> tuple[str, str] | None:
    """Paths of a micrograph's even and odd sums; None where it has none."""
    if not set(_HALVES) <= set(micrographs.table.columns):
        return None
    even, odd = (str(micrographs.table[name].iloc[row]) for name in _HALVES)
    return None if "None" in (even, odd) else (even, odd)


def read_sample(
    micrographs: Micrographs, row: int, learn_from: str, scale: Scale, cfg: SpecimenContrast
) -> Sample | None:
    """Read what is learned from one micrograph; None if it lacks the half sums that the others have."""
    pixel = micrographs.facts(row).pixel_size_angstrom
    assert pixel is not None
    sign = -1.0 if is_bright(micrographs, row, cfg.contrast) else 1.0
    if learn_from == "halves":
        halves = halves_of(micrographs, row)
        if halves is None:
            return None
        return sample_of_halves(read_tensor(halves[0]), read_tensor(halves[1]), pixel, scale, sign)
    image = read_tensor(micrographs.name(row))
    if learn_from == "single":
        return sample_of_one(image, pixel, scale, sign)
    clean = read_tensor(str(micrographs.table[_CLEAN].iloc[row]))
    return sample_of_clean(image, clean, pixel, scale, sign)


def read_tensor(name: str) -> Tensor:
    """Read an image (H, W), float32."""
    return torch.from_numpy(read_image(name))

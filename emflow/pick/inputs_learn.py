"""Read labels, the micrographs they are on, and what was learned from them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from emflow.io.image import read_image
from emflow.io.imported import read_imported_picks
from emflow.io.micrographs import Micrographs
from emflow.io.star import floats
from emflow.nn.unet import UNet, on_device
from emflow.nn.weights import read_kind
from emflow.pick.apply import working_diameter
from emflow.pick.apply_labels import Picker
from emflow.pick.calibration import Calibration
from emflow.pick.config import PickApply
from emflow.pick.config_tools import PickTrain
from emflow.pick.positives import MEMBERS, Example
from emflow.pick.view import view_of
from emflow.step import EmflowError

log = logging.getLogger("emflow")

KIND = "pick-labels"
FEWEST = 10
"""Labels below which nothing is learned."""


@dataclass(frozen=True)
class Labelled:
    """What is learned from."""

    rows: list[int]
    """Of the micrographs' table."""
    examples: list[Example]
    xy_px: list[np.ndarray]
    """The labels of each example, in pixels of the micrograph."""
    left_out: int
    """Labels in contamination or at a border."""


def read_labels(
    micrographs: Micrographs, labels: Path, cfg: PickTrain, dark: list[bool], device: torch.device
) -> Labelled:
    """Read labelled micrographs, and others that show what else there is.

    Raises
    ------
    EmflowError
        If fewer than ``FEWEST`` labels can be used.
    """
    table = read_imported_picks(labels, micrographs)["particles"]
    number = {micrographs.identity(row): row for row in range(len(micrographs))}
    owner = np.array([number[i] for i in table["emflowMicrographId"]], dtype=np.int64)
    xy = np.column_stack([floats(table, "rlnCoordinateX"), floats(table, "rlnCoordinateY")]).reshape(-1, 2)
    settings = PickApply(diameter_angstrom=cfg.diameter_angstrom, mask_contamination=cfg.mask_contamination)
    rows, examples, places, left_out = [], [], [], 0
    for row in _chosen(np.bincount(owner, minlength=len(micrographs)), cfg.max_micrographs):
        try:
            image = torch.from_numpy(read_image(micrographs.name(row))).to(device)
            pixel = micrographs.facts(row).pixel_size_angstrom
            assert pixel is not None
            view = view_of(image, working_diameter(image.shape, pixel, settings), dark[row], settings)
        except EmflowError as error:
            log.warning("left out of the training: %s: %s", micrographs.name(row), error)
            continue
        own = xy[owner == row]
        yx = view.place(own)
        y, x = np.clip(np.rint(yx).astype(int), 0, np.array(view.weight.shape) - 1).T
        usable = (view.weight.cpu().numpy()[y, x] > 0) & (np.abs(yx - np.column_stack([y, x])) <= 0.5).all(1)
        left_out += int((~usable).sum())
        rows.append(row)
        examples.append(Example(view, yx[usable]))
        places.append(own[usable])
    count = sum(map(len, places))
    if count < FEWEST:
        raise EmflowError(
            f"{labels}: {count} labels can be used ({left_out} more lie in contamination or at a border, "
            f"{len(xy)} are on these micrographs); expected at least {FEWEST}, better 50. Label more particles."
        )
    return Labelled(rows, examples, places, left_out)


def _chosen(labels: np.ndarray, most: int) -> list[int]:
    """Rows with most labels, at most three quarters of all if there are others; the others spread over the table."""
    with_labels = np.flatnonzero(labels)
    with_labels = with_labels[np.argsort(-labels[with_labels], kind="stable")]
    others = np.flatnonzero(labels == 0)
    n = min(len(with_labels), max(1, most - min(len(others), most // 4)))
    m = min(len(others), most - n)
    spread = others[np.linspace(0, len(others) - 1, m).round().astype(int)] if m else others[:0]
    return sorted([*with_labels[:n].tolist(), *spread.tolist()])


def load_picker(path: str, device: torch.device) -> Picker:
    """Read what `pick train` wrote."""
    model = read_kind(Path(path), KIND, "pick train")
    networks = []
    for member in range(MEMBERS):
        network = UNet(model.network["widths"])
        prefix = f"{member}."
        state = {k.removeprefix(prefix): v for k, v in model.state.items() if k.startswith(prefix)}
        network.load_state_dict(state)
        networks.append(on_device(network, device).eval().requires_grad_(False))
    calibration = Calibration.of(model.facts)
    return Picker(networks, calibration, model.facts["diameter_angstrom"], model.sha256)

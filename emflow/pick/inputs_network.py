"""The general picker that emflow ships."""

from __future__ import annotations

from pathlib import Path

import torch

from emflow.nn.weights import read_kind
from emflow.pick.apply_network import Picker
from emflow.pick.calibration import Calibration
from emflow.pick.network import PickerNetwork
from emflow.step import EmflowError

GENERAL = Path(__file__).parent / "weights" / "general.safetensors"
KIND = "picker"


def load_general(device: torch.device, path: Path = GENERAL) -> Picker:
    """Read the picker network with its calibration.

    Raises
    ------
    EmflowError
        If files are missing, changed, or not a picker's.
    """
    model = read_kind(path, KIND, "pick train")
    network = PickerNetwork([int(width) for width in model.network["widths"]])
    try:
        network.load_state_dict(model.state)
    except RuntimeError as error:
        raise EmflowError(f"{path}: the weights do not fit the manifest's network: {error}") from None
    network = network.to(device).eval().requires_grad_(False)
    return Picker(network, Calibration.of(model.facts), model.sha256)

"""Read positions from STAR or CSV, one file for many micrographs or one for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
import pandas as pd
import torch

from emflow.io.atomic import StepError
from emflow.io.freed import want_again
from emflow.io.image import read_image
from emflow.io.micrographs import Micrographs
from emflow.io.particles import PARTICLE_BLOCKS
from emflow.io.star import concat, floats, read_star
from emflow.nn.weights import read_kind
from emflow.pick.apply_network import Picker
from emflow.pick.calibration import Calibration
from emflow.pick.network import PickerNetwork
from emflow.pick.score import Positions
from emflow.step import EmflowError

GENERAL = Path(__file__).parent / "weights" / "general.safetensors"
"""The picker that emflow ships."""
KIND = "picker"
CSV_NAMES = {
    "rlnCoordinateX": ("x_px", "x", "rlncoordinatex", "x_coord"),
    "rlnCoordinateY": ("y_px", "y", "rlncoordinatey", "y_coord"),
    "rlnMicrographName": ("micrograph", "micrograph_name", "image_name", "rlnmicrographname"),
    "rlnAutopickFigureOfMerit": ("score", "probability", "rlnautopickfigureofmerit"),
}
"""Our column → names that a CSV may give it, in lower case."""


def load_picker(device: torch.device, path: Path = GENERAL) -> tuple[Picker, str]:
    """Read a picker network with its calibration; and its checksum.

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
    return Picker(network, Calibration.of(model.facts)), model.sha256


def read_intermediate(path: str) -> np.ndarray:
    """Read a denoised micrograph: one that is damaged is no fault of the micrograph.

    Raises
    ------
    StepError
        If it cannot be read.
    """
    try:
        return read_image(path)
    except EmflowError as error:
        raise StepError(
            f"{error} It is a denoised micrograph of an earlier step: run `emflow denoise apply` again (for a "
            f"project: remove {Path(path).parent.parent}/shard_*.star), which makes anew what is damaged."
        ) from None


def read_positions(source: Path) -> Positions:
    """Read positions: a STAR with particles, a CSV, or a folder of CSV or STAR files.

    A file whose rows name no micrograph belongs to the micrograph of its own name (``a.csv`` to ``a.mrc``;
    RELION's ending ``_autopick`` is taken off).

    Raises
    ------
    EmflowError
        If nothing is found, or coordinates are missing.
    """
    if source.is_dir():
        files = sorted(
            p for p in source.iterdir() if p.suffix.lower() in (".csv", ".star") and p.name[0] != "."
        )
        if not files:
            raise EmflowError(f"{source}: holds no CSV or STAR file with coordinates.")
    else:
        files = [source]
    tables, listed = [], set()
    for file in files:
        table, names = _read_file(file)
        tables.append(table)
        listed |= names
    table = concat(tables)
    stems = np.array([PurePath(name).stem for name in table["rlnMicrographName"]], dtype=object)
    xy = np.column_stack([floats(table, "rlnCoordinateX"), floats(table, "rlnCoordinateY")])
    # the score has no ties where probabilities round to one
    merit = "emflowPickScore" if "emflowPickScore" in table else "rlnAutopickFigureOfMerit"
    return Positions(stems, xy.reshape(-1, 2), floats(table, merit, 0.0), frozenset(listed))


def require_denoised(table: Path, images: Micrographs, known: Sequence[object]) -> None:
    """Refuse to pick where denoised images were removed that are needed: none is set aside for that.

    Parameters
    ----------
    known
        For each micrograph, its picks if they are known already; None where its image will be read.

    Raises
    ------
    EmflowError
        Some are gone. They will then be made again.
    """
    names = images.table["emflowDenoisedName"]
    gone = [
        name for name, picks in zip(names, known, strict=True) if picks is None and not Path(name).exists()
    ]
    if gone:
        want_again(table)
        raise EmflowError(
            f"{table}: {len(gone)} of its denoised images are gone, such as {gone[0]}. Make them again: `emflow denoise "
            "apply`, or in a project the same snakemake command with --forcerun denoise_apply."
        )


def _read_file(file: Path) -> tuple[pd.DataFrame, set[str]]:
    """Table of positions, and base names of all micrographs the file speaks of."""
    listed: set[str] = set()
    if file.suffix.lower() == ".star":
        tables = read_star(file)
        block = next((b for b in PARTICLE_BLOCKS if b in tables and "rlnCoordinateX" in tables[b]), None)
        if block is None:
            raise EmflowError(f"{file}: has no block with the column _rlnCoordinateX.")
        table = tables[block]
        if "micrographs" in tables and "rlnMicrographName" in tables["micrographs"]:
            listed = {PurePath(name).stem for name in tables["micrographs"]["rlnMicrographName"]}
    else:
        table = _read_csv(file)
    if "rlnMicrographName" not in table:
        name = file.stem.removesuffix("_autopick")
        table = table.assign(rlnMicrographName=f"{name}.mrc")  # so that a dot in the name begins no suffix
        listed.add(name)
    return table, listed | {PurePath(name).stem for name in table["rlnMicrographName"]}


def _read_csv(file: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, dtype=str, skipinitialspace=True)
    except FileNotFoundError:
        raise EmflowError(f"{file}: no such file.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise EmflowError(f"{file}: not a readable CSV file ({error}).") from None
    known = {alias: ours for ours, aliases in CSV_NAMES.items() for alias in aliases}
    columns = [str(c) for c in table.columns]
    named = table.rename(columns={c: known[c.strip().lower()] for c in columns if c.strip().lower() in known})
    for column in ("rlnCoordinateX", "rlnCoordinateY"):
        if column not in named:
            raise EmflowError(
                f"{file}: has the columns {', '.join(columns)}; expected {' or '.join(CSV_NAMES[column][:2])}, "
                "and a header in the first line."
            )
    return named

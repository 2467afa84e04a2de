"""Tables of RELION 3.0 and older (no data_optics): give them optics groups and shifts in ångström."""

from __future__ import annotations

import numpy as np
import pandas as pd

from emflow.io.star import floats
from emflow.step import EmflowError

_OPTICS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")


def with_optics(
    table: pd.DataFrame, optics: pd.DataFrame | None, source: str
) -> tuple[pd.DataFrame, pd.DataFrame, bool]:
    """Return table and optics groups; the last value tells whether the groups had to be made.

    An old table says the pixel size as detector pixel (micrometre) over magnification, per particle; each
    distinct set of optics becomes a group. ``rlnOriginX/Y`` (pixels) become ``rlnOriginX/YAngst``.

    Raises
    ------
    EmflowError
        If the table has neither optics groups nor the older columns.
    """
    if optics is not None:
        if "rlnOpticsGroup" not in table:
            table = table.assign(rlnOpticsGroup="1")
        return table, optics, False
    missing = [name for name in _OPTICS if name not in table]
    scaled = {"rlnMagnification", "rlnDetectorPixelSize"} <= set(table.columns)
    if missing or not (scaled or "rlnImagePixelSize" in table):
        what = f"_{missing[0]}" if missing else "a pixel size (_rlnDetectorPixelSize and _rlnMagnification)"
        raise EmflowError(f"{source}: has no block data_optics, and its table lacks {what}.")
    if "rlnImagePixelSize" in table:
        pixel = floats(table, "rlnImagePixelSize")
    else:
        pixel = floats(table, "rlnDetectorPixelSize") * 1e4 / floats(table, "rlnMagnification")
    facts = pd.DataFrame({name: table[name] for name in _OPTICS})
    facts["rlnImagePixelSize"] = [f"{p:.9g}" for p in pixel]
    numbers = facts.groupby(list(facts.columns), sort=False).ngroup().to_numpy() + 1
    firsts = facts.assign(number=numbers).drop_duplicates("number")
    groups = [str(n) for n in firsts["number"]]
    made = pd.DataFrame(
        {"rlnOpticsGroup": groups, "rlnOpticsGroupName": [f"opticsGroup{g}" for g in groups]}, dtype=object
    )
    for name in (*_OPTICS, "rlnImagePixelSize"):
        made[name] = firsts[name].to_numpy(dtype=object)
    table = table.assign(rlnOpticsGroup=[str(n) for n in numbers])
    for axis in "XY":
        if f"rlnOrigin{axis}" in table and f"rlnOrigin{axis}Angst" not in table:
            shift = floats(table, f"rlnOrigin{axis}") * pixel
            table = table.assign(
                **{f"rlnOrigin{axis}Angst": np.array([f"{s:.9g}" for s in shift], dtype=object)}
            )
            table = table.drop(columns=f"rlnOrigin{axis}")
    return table, made, True

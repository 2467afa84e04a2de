"""Simulated sessions as one table of micrographs, for those who learn from several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from emflow.io.star import format_value, write_star

_FACTS = {
    "rlnMicrographPixelSize": "pixel_size_angstrom",
    "rlnVoltage": "voltage_kv",
    "rlnSphericalAberration": "cs_mm",
    "rlnAmplitudeContrast": "amplitude_contrast",
}


def write_sessions(path: Path, sessions: Sequence[Path]) -> None:
    """Write the micrographs of sessions that ``simulate session`` made, each session an optics group of its own.

    emflowCleanName tells a session's noise-free images where it kept them (``keep_clean``), else None.
    """
    optics, rows = [], []
    for group, session in enumerate(sessions, start=1):
        facts = json.loads((session / "truth" / "facts.json").read_text(encoding="utf-8"))
        optics.append({"rlnOpticsGroup": group, **{name: facts[key] for name, key in _FACTS.items()}})
        for image in sorted((session / "micrographs").glob("*.mrc")):
            clean = session / "truth" / "clean" / image.name
            rows.append(
                {
                    "rlnMicrographName": image,
                    "rlnOpticsGroup": group,
                    "emflowMicrographId": f"{session.name}-{image.stem}",
                    "emflowCleanName": clean if clean.exists() else "None",
                }
            )
    tables = {"optics": pd.DataFrame(optics), "micrographs": pd.DataFrame(rows)}
    write_star(path, {name: table.map(format_value) for name, table in tables.items()})

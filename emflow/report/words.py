"""Names and numbers as people read them."""

from __future__ import annotations

import math
from typing import Any

UNITS = {
    "e_per_a2": "e/Å²",
    "angstrom3": "Å³",
    "angstrom2": "Å²",
    "angstrom": "Å",
    "um": "µm",
    "mm": "mm",
    "kv": "kV",
    "deg": "°",
    "px": "px",
    "kda": "kDa",
    "mb": "MB",
    "gb": "GB",
    "cpu_s": "CPU-s",
    "db": "dB",
    "s": "s",
    "sd": "standard deviations",
    "percent": "%",
}
"""How a name ends → the unit behind its number."""

UPPER = {
    "fsc": "FSC",
    "fsc05": "FSC 0.5",
    "fsc0143": "FSC 0.143",
    "ctf": "CTF",
    "cs": "Cs",
    "snr": "SNR",
    "f1": "F1",
    "cpu": "CPU",
    "p90": "90th percentile",
    "half1": "half 1",
    "half2": "half 2",
}
"""Words that are written otherwise."""


def label_and_unit(name: str) -> tuple[str, str]:
    """Split ``defocus_median_um`` into ``defocus median`` and ``µm``."""
    for ending in sorted(UNITS, key=len, reverse=True):
        if name.endswith("_" + ending):
            return words(name[: -len(ending) - 1]), UNITS[ending]
        if name == ending:
            return words(name), UNITS[ending]
    return words(name), ""


def words(name: str) -> str:
    """``n_particles`` → ``n particles``; abbreviations in capitals."""
    return " ".join(UPPER.get(word, word) for word in name.replace(".", " ").split("_"))


def number(value: Any, digits: int = 4) -> str:
    """Write a number with as many digits as it deserves; a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        if not math.isfinite(value):
            return "–"
        if value == int(value) and abs(value) < 1e15:
            return number(int(value))
        if abs(value) >= 10 ** (digits - 1):
            return number(round(value))
        return f"{value:.{digits}g}" if abs(value) >= 1e-4 else f"{value:.2e}"
    return str(value)


def seconds(value: float) -> str:
    """``4210`` → ``1 h 10 min``."""
    if value < 120:
        return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def plural(count: int, noun: str) -> str:
    """``1 micrograph``, ``12 micrographs``, ``no micrographs``."""
    return f"{number(count) if count else 'no'} {noun}{'' if count == 1 else 's'}"

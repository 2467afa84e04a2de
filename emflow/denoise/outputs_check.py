"""The tables, figures and verdicts of what independent data bear out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from emflow.denoise.scale import Scale
from emflow.denoise.trust import Spectra, band_edges
from emflow.io.record import verdict

_RINGS_ANGSTROM = (60, 40, 30, 20)
_ENOUGH, _LITTLE = 0.8, 0.6
"""Part of the denoised power that the other image has to bear out, and below which it bears out too little."""
_NOTHING = 0.01
"""Denoised power over the raw's below which nothing is shown."""
_LESS = 0.05
"""Correlation that a band may lose."""
_SURE_LOSS = 3.0
"""Standard errors of a correlation that a loss has to exceed."""


@dataclass(frozen=True)
class Asked:
    """What was asked of one micrograph."""

    kind: str
    """halves, interleaved or split."""
    spectra: Spectra
    similarity: tuple[float, float] | None
    """Consecutive structural similarity of the two denoised, and of the two raw images; None of a split."""


def evidence_table(table: pd.DataFrame, found: dict[int, Asked]) -> pd.DataFrame:
    """Return the rows that were asked, each with where the evidence is from and what it says."""
    rows = sorted(found)
    columns: dict[str, list[str]] = {"emflowEvidence": [found[row].kind for row in rows]}
    spectra = [found[row].spectra for row in rows]
    columns["emflowBorneOut"] = [_text(one.borne_out_fraction()[0]) for one in spectra]
    columns["emflowRawSnrDb"] = [_text(one.snr_db()[0]) for one in spectra]
    columns["emflowDenoisedSnrDb"] = [_text(one.snr_db()[1]) for one in spectra]
    similar = [found[row].similarity for row in rows]
    columns["emflowConsecutiveSimilarity"] = [_text(one[0] if one else None) for one in similar]
    kept = table.iloc[rows].reset_index(drop=True)
    kept = kept.drop(columns=[name for name in columns if name in kept])
    return pd.concat([kept, pd.DataFrame(columns, dtype=object)], axis=1)


def _text(value: float | None) -> str:
    return "nan" if value is None or math.isnan(value) else f"{value:.4g}"


def spectra_table(spectra: Spectra, scale: Scale) -> pd.DataFrame:
    """One row a band: powers for each Fourier component, and correlations with the unseen signal."""
    edges = band_edges(scale)
    count = spectra.components.clip(1)
    powers = {
        "emflowSignalPower": spectra.signal,
        "emflowNoisePower": spectra.seen - spectra.signal,
        "emflowDenoisedPower": spectra.denoised,
        "emflowBorneOutPower": spectra.borne_out,
        "emflowAddedPower": spectra.added(),
    }
    columns = {"rlnResolution": 0.5 * (edges[1:] + edges[:-1]), "emflowComponents": spectra.components}
    columns |= {name: values / count for name, values in powers.items()}
    columns["emflowRawCorrelation"] = spectra.correlation_raw()
    columns["emflowDenoisedCorrelation"] = spectra.correlation_denoised()
    return pd.DataFrame(
        {name: [f"{v:.6g}" for v in values] for name, values in columns.items()}, dtype=object
    )


def check_metrics(found: dict[int, Asked], total: Spectra, scale: Scale) -> dict[str, float | int | None]:
    """Figures of the whole, for metrics.json."""
    kinds = [one.kind for one in found.values()]
    similar = [one.similarity for one in found.values() if one.similarity]
    metrics: dict[str, float | int | None] = {
        f"micrographs_{kind}": kinds.count(kind) for kind in ("halves", "interleaved", "split")
    }
    fraction, error = total.borne_out_fraction()
    raw, denoised = total.snr_db()
    metrics |= {
        "borne_out_fraction": _number(fraction),
        "borne_out_error": _number(error),
        "added_fraction": _number(float(total.added().sum()) / max(float(total.denoised.sum()), 1e-30)),
        "kept_variance": float(total.denoised.sum() / total.seen.sum()),
        "consecutive_similarity": float(np.mean([one for one, _ in similar])) if similar else None,
        "raw_consecutive_similarity": float(np.mean([one for _, one in similar])) if similar else None,
        "raw_snr_db": raw,
        "denoised_snr_db": denoised,
    }
    centres = 0.5 * (band_edges(scale)[1:] + band_edges(scale)[:-1])
    for name, values in (
        ("raw", total.correlation_raw()),
        ("denoised", total.correlation_denoised()),
    ):
        for ring in _RINGS_ANGSTROM:
            band = int(np.abs(centres - 1 / ring).argmin())
            metrics[f"{name}_correlation_{ring}_angstrom"] = _number(float(values[band]))
    return metrics


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def check_verdicts(total: Spectra, scale: Scale) -> list[dict[str, str]]:
    """Whether the denoised images show what is there, and whether they lose what the raw ones hold."""
    return [_borne_out(total), _no_worse(total, scale)]


def _borne_out(total: Spectra) -> dict[str, str]:
    question = "Do independent data bear out what the denoised micrographs show?"
    fraction, error = total.borne_out_fraction()
    kept = float(total.denoised.sum() / total.seen.sum())
    if math.isnan(fraction) or (kept < _NOTHING and fraction < 3 * error):
        return verdict(
            question,
            "unknown",
            f"They show hardly anything ({100 * kept:.2g} % of the power); no signal is sure.",
        )
    evidence = f"{100 * fraction:.0f} ± {100 * error:.0f} % of the power that they show is in images with other noise."
    if fraction + error >= _ENOUGH:
        return verdict(question, "pass", evidence)
    action = "Train or fine-tune on these micrographs (emflow denoise train), or pick from the raw ones."
    return verdict(question, "warn" if fraction + error >= _LITTLE else "fail", evidence, action)


def _no_worse(total: Spectra, scale: Scale) -> dict[str, str]:
    question = (
        "Is the signal in the denoised micrographs at least as clear as in the raw ones, at every resolution?"
    )
    raw, denoised = total.correlation_raw(), total.correlation_denoised()
    matters = np.isfinite(raw) & (total.denoised > 0.01 * total.denoised.sum())
    if not matters.any() or total.snr_db()[0] is None:
        return verdict(question, "unknown", "No signal is beyond chance.")
    lost = np.where(matters, raw - denoised - _SURE_LOSS / np.sqrt(total.components.clip(1)), -np.inf)
    worst = int(np.argmax(lost))
    at = 2 / (band_edges(scale)[worst] + band_edges(scale)[worst + 1])
    evidence = f"At worst (near {at:.0f} Å) the correlation is {denoised[worst]:.2f}, raw {raw[worst]:.2f}."
    if lost[worst] <= _LESS:
        return verdict(question, "pass", evidence)
    return verdict(question, "warn", evidence, "Look at the raw micrographs where such detail counts.")

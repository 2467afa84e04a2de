"""Join the particles of all shards, count them, judge them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from emflow.em.optics import wavelength_angstrom
from emflow.extract.table import POSE_KNOWN, in_order

Metrics = dict[str, float | int | None]
Verdict = tuple[str, str, str, str]
"""Question, verdict, evidence, action."""
OPTICS_ORDER = (
    "rlnOpticsGroup",
    "rlnOpticsGroupName",
    "rlnMicrographOriginalPixelSize",
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnImagePixelSize",
    "rlnImageSize",
)
FEW = 1000
"""Particles below which a map is unlikely to show more than the outline."""


@dataclass
class Joined:
    """Particles of all shards with their optics groups, and what was lost on the way."""

    particles: pd.DataFrame
    optics: pd.DataFrame
    outside: int = 0
    flat: int = 0
    not_accepted: int = 0
    repeated: int = 0
    micrographs: int = 0
    boxes: list[tuple[int, float]] = field(default_factory=list)
    set_aside: list[str] = field(default_factory=list)
    """Reasons of micrographs that could not be cut."""


def join_shards(
    shards: Iterable[Mapping[str, pd.DataFrame]],
    accepted: Set[str] | None = None,
    removed: Set[str] = frozenset(),
) -> Joined:
    """Join shard tables in their order.

    Optics groups with equal columns become one, others get a number of their own; particles of micrographs
    that are not in ``accepted`` (None: all are), and ids that stand already, are left out and counted; those in
    ``removed``, which another step has counted, are left out.
    """
    groups: dict[tuple[tuple[str, str], ...], str] = {}
    tables: list[pd.DataFrame] = []
    out = Joined(pd.DataFrame(), pd.DataFrame())
    for shard in shards:
        number_of = {}
        for row in shard["optics"].to_dict("records"):
            content = tuple(sorted((str(k), str(v)) for k, v in row.items() if k != "rlnOpticsGroup"))
            number_of[str(row["rlnOpticsGroup"])] = groups.setdefault(content, str(len(groups) + 1))
        table = shard["particles"]
        if accepted is not None and len(table):
            kept = table["emflowMicrographId"].isin(accepted)
            out.not_accepted += int((~kept).sum())
            table = table[kept]
        if removed and len(table):
            table = table[~table["emflowParticleId"].isin(removed)]
        tables.append(table.assign(rlnOpticsGroup=[number_of[str(g)] for g in table["rlnOpticsGroup"]]))
        if "micrographs" in shard:
            out.outside += int(shard["micrographs"]["emflowDroppedOutside"].astype(int).sum())
            out.flat += int(shard["micrographs"]["emflowDroppedFlat"].astype(int).sum())
        if "set_aside" in shard:
            out.set_aside += shard["set_aside"]["emflowReason"].tolist()
    filled = [table for table in tables if len(table)] or tables[:1]
    same = all(list(table) == list(filled[0]) for table in filled)
    joined = pd.concat(filled, ignore_index=True).astype(object)
    del filled, tables  # millions of rows: no copy is made or held without need
    if not same:
        joined = joined.where(joined.notna(), "None")
    repeated = joined["emflowParticleId"].duplicated() if len(joined) else pd.Series(dtype=bool)
    out.repeated = int(repeated.sum())
    if out.repeated:
        joined = joined[~repeated].reset_index(drop=True)
    if POSE_KNOWN in joined:
        known = joined[POSE_KNOWN].replace("None", "1")
        joined = (
            joined.drop(columns=POSE_KNOWN) if (known == "1").all() else joined.assign(**{POSE_KNOWN: known})
        )
    out.particles = in_order(joined)
    optics = pd.DataFrame([{"rlnOpticsGroup": number, **dict(content)} for content, number in groups.items()])
    optics = optics.astype(object).where(optics.notna(), "None")
    order = [name for name in OPTICS_ORDER if name in optics]
    out.optics = optics[[*order, *(name for name in optics if name not in order)]]
    out.micrographs = joined["emflowMicrographId"].nunique() if len(joined) else 0
    return out


def measure(joined: Joined, diameter_angstrom: float | None) -> Metrics:
    """Figures of the joined particles.

    ``delocalisation_angstrom`` is how far the median defocus carries detail at Nyquist from its place,
    λ·Δf·s − Cs·λ³·s³; ``box_holds_angstrom`` is the resolution up to which it stays within the box.
    """
    table, optics = joined.particles, joined.optics.iloc[0]
    side, pixel = int(optics["rlnImageSize"]), float(optics["rlnImagePixelSize"])
    halves = table["rlnRandomSubset"].tolist() if "rlnRandomSubset" in table else []
    metrics: Metrics = {
        "particles": len(table),
        "micrographs_with_particles": joined.micrographs,
        "half1_particles": halves.count("1"),
        "half2_particles": halves.count("2"),
        "dropped_outside": joined.outside,
        "dropped_flat": joined.flat,
        "dropped_not_accepted": joined.not_accepted,
        "dropped_repeated": joined.repeated,
        "box_px": side,
        "pixel_size_angstrom": pixel,
        "box_angstrom": side * pixel,
        "nyquist_angstrom": 2 * pixel,
        "delocalisation_angstrom": None,
        "box_holds_angstrom": None,
    }
    if len(table):
        defocus = table[["rlnDefocusU", "rlnDefocusV"]].astype(float).to_numpy().mean(1)
        wavelength = wavelength_angstrom(float(optics["rlnVoltage"]))
        spherical = float(optics["rlnSphericalAberration"]) * 1e7 * wavelength**3

        def reach(s: np.ndarray) -> np.ndarray:
            return np.abs(wavelength * float(np.median(defocus)) * s - spherical * s**3)

        nyquist = np.array(1 / (2 * pixel))
        metrics["delocalisation_angstrom"] = round(float(reach(nyquist)), 1)
        if diameter_angstrom is not None:
            s = np.linspace(0, float(nyquist), 200)[1:]
            beyond = np.flatnonzero(reach(s) > (side * pixel - diameter_angstrom) / 2)
            last = s[beyond[0] - 1] if len(beyond) and beyond[0] > 0 else (s[0] if len(beyond) else s[-1])
            metrics["box_holds_angstrom"] = round(1 / float(last), 2)
    return metrics


def judge_set_aside(reasons: list[str]) -> list[Verdict]:
    """A verdict where micrographs were accepted by the session and yet could not be cut."""
    if not reasons:
        return []
    evidence = f"{len(reasons)} could not be read or worked on: {'; '.join(reasons[:5])}"
    action = "See the block set_aside of extract/shard_*.star."
    return [("Could particles be cut from every accepted micrograph?", "warn", evidence, action)]


def judge(metrics: Metrics) -> list[Verdict]:
    """Verdicts on the joined particles."""
    count = int(metrics["particles"] or 0)
    lost = [int(metrics[f"dropped_{why}"] or 0) for why in ("outside", "flat", "not_accepted", "repeated")]
    evidence = (
        f"{count} particles of {metrics['micrographs_with_particles']} micrographs; left out: {lost[0]} near the "
        f"edge, {lost[1]} without noise around them, {lost[2]} of micrographs not accepted, {lost[3]} repeated"
    )
    question = "Are there enough particles?"
    if not count:
        return [(question, "fail", "no particles", "Look at the picks, and at the micrographs set aside.")]
    few = count < FEW
    verdicts = [
        (
            question,
            "warn" if few else "pass",
            evidence,
            "So few seldom give more than an outline; add data." if few else "",
        )
    ]
    one, two = int(metrics["half1_particles"] or 0), int(metrics["half2_particles"] or 0)
    uneven = min(one, two) < 0.7 * max(one, two)
    verdicts.append(
        (
            "Do both halves hold as many particles?",
            "fail" if not min(one, two) else "warn" if uneven else "pass",
            f"{one} and {two}",
            "The smaller half limits the resolution." if uneven else "",
        )
    )
    if metrics["box_holds_angstrom"] is not None:
        nyquist, holds = float(metrics["nyquist_angstrom"] or 0), float(metrics["box_holds_angstrom"])
        short = holds > 1.05 * nyquist
        verdicts.append(
            (
                "Does the box hold what defocus spreads?",
                "warn" if short else "pass",
                f"to {holds:.3g} Å at the median defocus; Nyquist is {nyquist:.3g} Å",
                f"If the map gets near {holds:.3g} Å, enlarge box_diameters." if short else "",
            )
        )
    return verdicts

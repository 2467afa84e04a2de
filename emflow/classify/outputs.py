"""Write what the classification commands leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from emflow.classify.figures import draw_classes
from emflow.classify.inputs import CLASS_COLUMNS, PARTICLE_COLUMNS, Run
from emflow.classify.measure import Columns
from emflow.classify.run import Classes
from emflow.classify.select import Selection
from emflow.em.poses import wrap_degrees
from emflow.figure import png_bytes
from emflow.io.atomic import write_bytes
from emflow.io.mrc import write_mrc
from emflow.io.particles import Particles
from emflow.io.record import verdict, write_metrics, write_verdicts
from emflow.io.star import write_star
from emflow.step import Judgement

Metrics = dict[str, float | int | None]


def write_run(out: Path, source: Particles, found: Classes, classes: Columns, particles: Columns) -> None:
    """Write averages, their figures and, last, the particles with class and in-plane pose."""
    pixel = source.common_facts().pixel_size_angstrom
    write_mrc(out / "classes.mrcs", found.averages.cpu().numpy(), pixel)
    write_star(out / "classes.star", {"classes": class_table(classes)})
    assigned = found.assigned
    origins = assigned.shifts_px.double() * pixel
    columns = {
        "rlnClassNumber": [str(k + 1) for k in assigned.number.tolist()],
        "rlnAnglePsi": [f"{v:.4f}" for v in wrap_degrees(assigned.psi_deg).tolist()],
        "rlnOriginXAngst": [f"{v:.4f}" for v in origins[:, 0].tolist()],
        "rlnOriginYAngst": [f"{v:.4f}" for v in origins[:, 1].tolist()],
        "rlnMaxValueProbDistribution": [f"{v:.6f}" for v in assigned.probability.tolist()],
    }
    columns |= {column: [f"{v:.5g}" for v in particles[name]] for name, column in PARTICLE_COLUMNS.items()}
    table = source.table.assign(**columns).astype(object)
    write_star(out / "particles.star", {"optics": source.optics, "particles": table})


def write_no_run(out: Path, source: Particles) -> None:
    """Write the results of a set that is too small."""
    write_mrc(out / "classes.mrcs", np.zeros((1, 16, 16), np.float32), 1.0)
    write_star(out / "classes.star", {"classes": class_table({name: np.zeros(0) for name in CLASS_COLUMNS})})
    write_star(out / "particles.star", {"optics": source.optics, "particles": source.table})


def class_table(classes: Columns) -> pd.DataFrame:
    """Figures of the classes as a table."""
    count = len(classes["particles"])
    columns: dict[str, list[str]] = {
        "rlnClassNumber": [str(k + 1) for k in range(count)],
        "rlnReferenceImage": [f"{k + 1:06d}@classes.mrcs" for k in range(count)],
    }
    for name, column in CLASS_COLUMNS.items():
        columns[column] = [f"{v:.5g}" if np.isfinite(v) else "nan" for v in classes[name]]
    return pd.DataFrame(columns, dtype=object)


def write_selection(out: Path, run: Run, selection: Selection, judgements: list[Judgement]) -> None:
    """Write classes with their scores, the kept and the removed particles, figures; selected.star comes last."""
    ranked, table = selection.ranked, run.tables["particles"]
    if len(run.averages):
        write_mrc(out / "classes.mrcs", run.averages, run.pixel_size_angstrom)
    classes = class_table(run.classes).assign(
        emflowClassScore=[f"{v:.3f}" for v in ranked.score],
        emflowReason=[reason or "None" for reason in ranked.reason],
        emflowSelected=[str(int(kept)) for kept in selection.classes_kept],
    )
    write_star(out / "classes.star", {"classes": classes})
    if len(run.averages):
        drawn = draw_classes(run.averages, run.classes, selection)
        write_bytes(out / "figures" / "classes.png", png_bytes(drawn))
    scored = table
    if len(run.averages):
        scored = table.assign(emflowClassScore=[f"{ranked.score[k]:.3f}" for k in run.number])
    rest = {name: block for name, block in run.tables.items() if name != "particles"}
    removed = scored[~selection.kept].assign(emflowReason=[reason for reason in selection.reason if reason])
    write_star(out / "removed.star", {**rest, "particles": removed.astype(object)})
    filled = run.classes["particles"] > 0
    known = run.classes["resolution_angstrom"][filled & selection.classes_kept]
    known = known[np.isfinite(known)]
    metrics: Metrics = {
        "particles": len(table),
        "particles_kept": int(selection.kept.sum()),
        "particles_removed": int((~selection.kept).sum()),
        "classes": int(filled.sum()),
        "classes_kept": int((filled & selection.classes_kept).sum()),
        "classes_by_person": selection.by_person,
        "class_resolution_median_angstrom": float(np.median(known)) if len(known) else None,
        "evidence_median_nat": float(np.median(run.particles["evidence"])) if len(table) else None,
    }
    write_metrics(out / "metrics.json", metrics)
    write_verdicts(out / "verdicts.json", [verdict(*row) for row in judgements])
    write_star(out / "selected.star", {**rest, "particles": scored[selection.kept].astype(object)})

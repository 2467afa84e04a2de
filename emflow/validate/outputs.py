"""What the validate room writes: metrics, verdicts, tables, maps, figures."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from emflow.figure import png_bytes
from emflow.io.atomic import write_bytes, write_text
from emflow.io.mrc import RESTORED_LABEL, UNRESTORED_LABEL, write_mrc
from emflow.io.record import verdict, write_metrics, write_verdicts
from emflow.io.star import write_star
from emflow.validate import judge
from emflow.validate.finding import Finding

log = logging.getLogger("emflow")


def write_finding(
    out: Path,
    found: Finding,
    voxel_size_angstrom: float,
    *,
    unrestored: bool = False,
    restored: tuple[str, ...] = (),
) -> None:
    """Write all that was found; what an earlier run wrote here that does not come again goes.

    Maps are marked as made from unrestored pixels where both half maps are (``unrestored``). Those named in
    ``restored`` carry the mark of restored pixels instead: no reader takes them for raw ones.
    """
    files = [
        *(f"figures/{name}.png" for name in found.figures),
        *(f"{name}.mrc" for name in found.maps),
        *(f"{name}.star" for name in found.tables),
        *found.texts,
    ]
    _clear(out, files)
    for name, figure in found.figures.items():
        write_bytes(out / "figures" / f"{name}.png", png_bytes(figure))
    for name, content in found.texts.items():
        write_text(out / name, content)
    for name, blocks in found.tables.items():
        write_star(out / f"{name}.star", blocks)
    for name, volume in found.maps.items():
        labels = (RESTORED_LABEL,) if name in restored else (UNRESTORED_LABEL,) if unrestored else ()
        write_mrc(out / f"{name}.mrc", volume.cpu().numpy(), voxel_size_angstrom, labels=labels)
    write_results(out, found.metrics, found.judgements, {**found.details, "files": files})


def write_empty(out: Path, particles: int | None) -> None:
    """Write the results of a set without particles: nothing to validate."""
    _clear(out, ["fsc.star"])
    columns = pd.Index(["rlnSpectralIndex", "rlnResolution", "rlnFourierShellCorrelationCorrected"])
    write_star(out / "fsc.star", {"fsc": pd.DataFrame([], columns=columns)})
    write_results(
        out,
        {"resolution_angstrom": None, "particles": particles},
        judge.empty_set(particles),
        {"files": ["fsc.star"]},
    )
    log.info("Empty half maps: nothing to validate.")


def _clear(out: Path, kept: list[str]) -> None:
    """Remove what an earlier run says in its validation.json that it wrote here; never anything else."""
    try:
        before = json.loads((out / "validation.json").read_text(encoding="utf-8")).get("files", [])
    except (OSError, ValueError, AttributeError):
        return
    for name in set(map(str, before)) - set(kept):
        path = out / name
        if path.resolve().parent in (out.resolve(), (out / "figures").resolve()):
            path.unlink(missing_ok=True)


def write_results(
    out: Path,
    metrics: dict[str, float | int | None],
    judgements: list[judge.Judgement],
    more: dict[str, Any],
) -> None:
    """Write metrics.json, verdicts.json and, last, validation.json with all of it."""
    rows = [verdict(*judgement) for judgement in judgements]
    write_metrics(out / "metrics.json", metrics)
    write_verdicts(out / "verdicts.json", rows)
    whole = {**metrics, "verdicts": rows, **more}
    write_text(out / "validation.json", json.dumps(whole, indent=1, allow_nan=False) + "\n")

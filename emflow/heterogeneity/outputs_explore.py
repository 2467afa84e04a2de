"""What decode, select and traverse write."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

import numpy as np
import pandas as pd

from emflow.figure import png_bytes
from emflow.heterogeneity.decode import Decoded
from emflow.heterogeneity.figures import draw_volumes
from emflow.heterogeneity.figures_traverse import draw_path
from emflow.heterogeneity.inputs import FittedFolder
from emflow.heterogeneity.inputs_explore import Selectable
from emflow.heterogeneity.judge import judge_barrier, judge_path
from emflow.heterogeneity.select import Selection, judge_selection
from emflow.heterogeneity.traverse import Path as LatentPath
from emflow.heterogeneity.traverse import barrier
from emflow.io.atomic import write_bytes
from emflow.io.mrc import write_mrc
from emflow.io.record import read_json, verdict, write_metrics, write_verdicts
from emflow.io.star import read_table, write_star
from emflow.step import Judgement

_SHOWN = 10
"""Volumes in the picture."""
_BINS = 30


def clear_volumes(out: Path) -> None:
    """Remove the volumes of an earlier run, those that its table names; fewer may come now."""
    if not (out / "volumes.star").is_file():
        return
    for name in read_table(out / "volumes.star", "volumes", "emflowVolume")["emflowVolume"]:
        stem = PurePath(name).stem
        for ending in ("", "_confidence", "_half1", "_half2"):
            (out / f"{stem}{ending}.mrc").unlink(missing_ok=True)
    (out / "figures" / "volumes.png").unlink(missing_ok=True)


class VolumeFolder:
    """A folder of decoded volumes, written one at a time."""

    def __init__(self, out: Path, voxel_angstrom: float, half_volumes: bool) -> None:
        self._out, self._voxel, self._half_volumes = out, voxel_angstrom, half_volumes
        self._rows: list[dict[str, float | str]] = []
        self._views: list[np.ndarray] = []

    def add(self, point: np.ndarray, far: float, decoded: Decoded) -> None:
        """Write one volume with its confidence."""
        name = f"volume_{len(self._rows) + 1:03d}"
        volume = decoded.volume.cpu().numpy()
        write_mrc(self._out / f"{name}.mrc", volume, self._voxel)
        write_mrc(self._out / f"{name}_confidence.mrc", decoded.confidence.cpu().numpy(), self._voxel)
        if self._half_volumes:
            for side, half in enumerate(decoded.halves, start=1):
                write_mrc(self._out / f"{name}_half{side}.mrc", half.cpu().numpy(), self._voxel)
        found = decoded.resolution_angstrom
        self._rows.append(
            {
                "emflowVolume": f"{name}.mrc",
                **{f"emflowLatent{k + 1}": float(value) for k, value in enumerate(point)},
                "emflowDistance": far,
                "emflowChangeResolution": "None" if found is None else found,
                "emflowConfidence": decoded.agreed,
            }
        )
        if len(self._views) < _SHOWN:
            self._views.append(volume)

    def finish(self, said: dict[str, int] | None = None) -> None:
        """Write the table of the volumes, a picture of the first ones, and metrics with what else is said."""
        drawn = draw_volumes([self._views], ["volumes"])
        write_bytes(self._out / "figures" / "volumes.png", png_bytes(drawn))
        table = pd.DataFrame(self._rows)
        write_metrics(
            self._out / "metrics.json",
            {
                "volumes": len(table),
                "distance_max": float(table["emflowDistance"].max()),
                "confidence_min": float(table["emflowConfidence"].min()),
                "confidence_mean": float(table["emflowConfidence"].mean()),
                **(said or {}),
            },
        )
        write_star(self._out / "volumes.star", {"volumes": table})


def write_selection(out: Path, source: Path, found: Selectable, chosen: Selection) -> Judgement:
    """Write the selected rows with all their columns, and beside them what was selected (.json)."""
    told = judge_selection(chosen.rows, found.half)
    beside = {
        "latents": str(source),
        "particles": len(chosen.rows),
        "selected": int(chosen.rows.sum()),
        "left_after": chosen.left,
        "verdict": verdict(*told),
    }
    write_bytes(out.with_suffix(".json"), (json.dumps(beside, indent=1) + "\n").encode())
    write_star(out, {"optics": found.particles.optics, "particles": found.particles.table[chosen.rows]})
    return told


def write_path(
    out: Path, found: FittedFolder, path: LatentPath, points: np.ndarray, uncertain: np.ndarray, far: float
) -> None:
    """Write path.star, metrics, verdicts, figures/path.png; latents.star with each particle's place comes last.

    Parameters
    ----------
    points
        Where volumes are, (P, K).
    uncertain
        Posterior deviations of the coordinates, (N, K).
    far
        Distance of the path's farthest point from the particles, in units of the usual one.
    """
    where, distance, tangent = path.place(found.latent)
    length = path.length()
    deviation = np.linalg.norm(tangent * path.scale * uncertain, axis=1) / max(length, 1e-30)
    counts = np.histogram(where, bins=_BINS, range=(0, 1))[0]
    spread = ((found.latent - found.latent.mean(0)) * path.scale).var(0).sum()
    explained = float(1 - (distance**2).mean() / max(float(spread), 1e-30))
    names = [f"emflowLatent{k + 1}" for k in range(found.latent.shape[1])]
    part = np.arange(len(path.fine)) / (len(path.fine) - (0 if path.closed else 1))
    line = pd.DataFrame({"emflowPathPlace": part, **dict(zip(names, path.fine.T, strict=True))})
    edges = (np.arange(_BINS) + 0.5) / _BINS
    energy = [repr(float(-np.log(n / counts.max()))) if n else "None" for n in counts]
    error = [repr(float(1 / np.sqrt(n))) if n else "None" for n in counts]
    profile = {
        "emflowPathPlace": edges,
        "emflowParticleCount": counts,
        "emflowFreeEnergy": energy,
        "emflowFreeEnergyError": error,
    }
    write_star(out / "path.star", {"path": line, "profile": pd.DataFrame(profile)})
    drawn = draw_path(path, points, found.latent, where, counts)
    write_bytes(out / "figures" / "path.png", png_bytes(drawn))
    metrics = read_json(out / "metrics.json") | {
        "closed": int(path.closed),
        "length": length,
        "explained": explained,
        "distance_along_max": far,
        "place_deviation_median": float(np.median(deviation)),
    }
    height = barrier(-np.log(np.maximum(counts, 1) / counts.max()))
    metrics["barrier_kt"] = height
    told = [*judge_path(path.closed, explained, far, float(np.median(deviation))), judge_barrier(height)]
    write_metrics(out / "metrics.json", metrics)
    write_verdicts(out / "verdicts.json", [verdict(*row) for row in told])
    columns = {
        "emflowPathPlace": where,
        "emflowPathPlaceDeviation": deviation,
        "emflowPathDistance": distance,
    }
    write_star(out / "latents.star", {"particles": found.table.assign(**columns)})


def write_no_path(out: Path, why: str) -> None:
    """Write the results where there is nothing to go along."""
    clear_volumes(out)
    for name in ("figures/path.png", "path.star", "volumes.star", "latents.star"):
        (out / name).unlink(missing_ok=True)
    write_metrics(out / "metrics.json", {"volumes": 0})
    said = verdict("Do the particles lie along the path?", "unknown", f"There is no path: {why}.")
    write_verdicts(out / "verdicts.json", [said])

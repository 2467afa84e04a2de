"""Reality checks on simulated stacks whose poses are imprecise: what is said where nothing, and where something, varies.

    python benchmarks/reality.py FOLDER [homogeneous composition hinge one-half] [--seeds 0 1 …] [--pose-error-deg 2]

`homogeneous` is one state; `composition` three; `hinge` a domain through 60°; in `one-half` the particles of half 1
are of two states, those of half 2 of one, and the fit is told to keep whatever it finds. All poses are turned by a
random angle of the given deviation about a random axis and shifted by a quarter of it in pixels. Prints a JSON line
for each: components kept, coordinates and states that check calls real, its verdict, CPU-seconds. What FOLDER
holds is not run again. --write keeps the lines in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from heterogeneity_quick import SETS, prepare
from running.cost import run
from running.simulated_sets import run_sets
from scipy.spatial.transform import Rotation

from emflow.em.poses import euler_to_matrix, matrix_to_euler
from emflow.heterogeneity.config import HeterogeneityCheck
from emflow.io.star import floats, integers, read_star, write_star

KINDS = {
    "homogeneous": "homogeneous",
    "composition": "composition",
    "hinge": "hinge",
    "one-half": "composition",
}
ANYTHING = ["--evidence-deviations", "1e-9", "--evidence-nat", "0", "--agreement", "0"]
RESULTS = Path(__file__).parent / "results" / "reality.json"
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


def imprecise(folder: Path, kind: str, error_deg: float, seed: int) -> Path:
    """Write particles whose poses are off; of ``one-half``, half 2 keeps particles of the first state only."""
    path = folder / f"{kind}_{error_deg:g}.star"
    tables = read_star(folder / "particles.star")
    table, rng = tables["particles"], np.random.default_rng((seed, 5))
    true = euler_to_matrix(torch.from_numpy(np.stack([floats(table, name) for name in _ANGLES], 1)))
    turn = Rotation.from_rotvec(np.deg2rad(error_deg) / 3**0.5 * rng.standard_normal((len(table), 3)))
    angles = matrix_to_euler(torch.from_numpy(turn.as_matrix()) @ true).numpy()
    pixel = float(floats(tables["optics"], "rlnImagePixelSize")[0])
    columns = {name: angles[:, i] for i, name in enumerate(_ANGLES)}
    for name in ("rlnOriginXAngst", "rlnOriginYAngst"):
        shift = 0.25 * error_deg * pixel / 2 * rng.standard_normal(len(table))
        columns[name] = floats(table, name, 0.0) + shift
    half = rng.permutation(len(table)) % 2 + 1
    changed = table.assign(**columns, rlnRandomSubset=half)
    if kind == "one-half":
        state = integers(read_star(folder / "truth" / "particles.star")["particles"], "emflowState")
        changed = changed[(half == 1) | (state == state.min())]
    write_star(path, {**tables, "particles": changed})
    return path


def measure(kind: str, seed: int, given: argparse.Namespace) -> dict[str, object]:
    """Make, fit, analyse and check one set."""
    source = KINDS[kind]
    states = {"composition": "3", "one-half": "2"}.get(kind)
    folder = given.folder / f"{source}{states or ''}_{given.particles}_{given.box}_{given.snr:g}_{seed}"
    if states:
        SETS["composition"] = ["--n-compositions", states]
    prepare(source, folder, given.particles, given.box, given.snr, seed)
    name = f"{kind}_{given.pose_error_deg:g}"
    done = folder / name / "check" / "row.json"
    if done.exists():
        return json.loads(done.read_text())
    star = imprecise(folder, kind, given.pose_error_deg, seed)
    fit, analysis, check = (str(folder / name / part) for part in ("fit", "analyze", "check"))
    more = ["--components", "4", *(ANYTHING if kind == "one-half" else [])]
    cpu = run("heterogeneity", "fit", str(star), str(folder / "maps"), fit, *more)
    asked = ["--states", "2"] if kind == "one-half" else []
    cpu += run("heterogeneity", "analyze", fit, analysis, "--no-half-maps", *asked)
    mask = str(folder / "maps" / "mask.mrc")
    checked = run("heterogeneity", "check", fit, analysis, check, "--mask", mask)
    metrics = json.loads((Path(check) / "metrics.json").read_text())
    fitted = json.loads((Path(fit) / "metrics.json").read_text())
    said = json.loads((Path(check) / "verdicts.json").read_text())[0]
    row: dict[str, object] = {
        "set": kind,
        "seed": seed,
        "particles": given.particles,
        "box_px": given.box,
        "snr": given.snr,
        "pose_error_deg": given.pose_error_deg,
        "components_kept": fitted["components"],
        "rigid_fraction": fitted.get("rigid_fraction"),
        **{key: metrics[key] for key in ("coordinates_real", "states", "states_confirmed")},
        "none": said["evidence"].startswith("No heterogeneity beyond"),
        "evidence": said["evidence"],
        "fit_analyze_cpu_s": round(cpu, 1),
        "check_cpu_s": round(checked, 1),
        "version": HeterogeneityCheck.version,
    }
    done.write_text(json.dumps(row) + "\n")
    return row


def keep(row: dict[str, object]) -> None:
    """Add a row to the results, in the place of an earlier one of the same set."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    names = ("set", "seed", "particles", "box_px", "snr", "pose_error_deg")
    rows = [old for old in rows if any(old[name] != row[name] for name in names)] + [row]
    RESULTS.write_text(json.dumps(sorted(rows, key=lambda r: [str(r[n]) for n in names]), indent=1) + "\n")


if __name__ == "__main__":
    run_sets(__doc__, KINDS, measure, keep, particles=1500, box=40, snr=0.2, pose_error_deg=3.0)

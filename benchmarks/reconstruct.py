"""Blind refinement side by side with RELION 3.1.3 on simulated stacks, and refinement of pure noise.

    python benchmarks/reconstruct.py FOLDER [c1_64 d2_64 c1_128 d2_128 noise_c1_64 noise_d2_64] [--seeds 0 1 2]

Both start from the truth to 30 Å (emflow takes that map as either half's start), know neither poses nor
offsets, use one division into half-sets, and are judged by the same code. A seed is another specimen, other
poses and other noise. Everything is kept in FOLDER, so that a run that was stopped goes on: RELION's in
SET/relion, emflow's in SET/emflow_ENGINE. --engine names the emflow that PYTHONPATH gives; a new name
measures again. RELION (1 000 CPU-s and more a set) is left out with --no-peer or where it is not installed:
then its kept figures are shown. --write keeps the figures in benchmarks/results.

On noise (every image white noise) emflow refines from its own first map, from a wrong map to 30 Å, and from
that map at full resolution.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from reconstruction import peer
from reconstruction.score import Outcome, score
from reconstruction.sets import KINDS, NOISE, Kind, prepare, prepare_wrong_reference
from reconstruction.table import print_noise, print_table

from emflow.io.star import read_star

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "reconstruct.json"
RELION = "RELION 3.1.3"


def run(*words: str) -> tuple[float, float]:
    """Run a command of emflow on one thread; return its CPU-seconds and its peak memory in MB."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "emflow.cli", *words], env=environment)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(status, words)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def measured(out: Path, *words: str) -> Row:
    """Cost of a command that writes ``out``, as it was when the command ran; it runs once."""
    kept = out / "cost.json"
    if not kept.is_file():
        if out.exists():  # a run that was killed: going on from its checkpoint would cost less than it all
            shutil.rmtree(out)
        cpu, memory = run(*words, "--threads", "1")
        given = [Path(word).name if "/" in word else word for word in words]
        kept.write_text(
            json.dumps(
                {
                    "cpu_s": round(cpu, 1),
                    "peak_memory_mb": round(memory, 1),
                    "command": " ".join(["emflow", *given]),
                }
            )
        )
    cost: Row = json.loads(kept.read_text())
    return cost


def facts_of(folder: Path) -> tuple[str, int]:
    """Symmetry and longest diameter (Å) of a set."""
    facts = json.loads((folder / "truth" / "facts.json").read_text())
    return facts["symmetry"], round(facts["diameter_angstrom"])


def refine(folder: Path, start: Path, out: Path) -> Row:
    """Refine with emflow; what it cost and what it states."""
    symmetry, diameter = facts_of(folder)
    sample = ["--symmetry", symmetry, "--diameter-angstrom", f"{diameter:g}"]
    words = ["reconstruct", "refine", str(folder / "particles.star"), str(start), str(out), *sample]
    return measured(out, *words) | stated(out)


def stated(out: Path) -> Row:
    """Resolution and first verdict of a reconstruction by emflow."""
    metrics = json.loads((out / "metrics.json").read_text())
    verdict = json.loads((out / "verdicts.json").read_text())[0]
    return {
        "reported_angstrom": metrics["resolution_angstrom"],
        "verdict": verdict["verdict"],
        "iterations": metrics.get("iterations"),
    }


def emflow_row(folder: Path, kind: Kind, engine: str) -> Row:
    """Refine a set with emflow and judge it."""
    out = folder / f"emflow_{engine}"
    cost = refine(folder, folder / "start", out)
    outcome = Outcome(
        out / "particles.star", out / "half1.mrc", out / "half2.mrc", cost.pop("reported_angstrom")
    )
    return {"tool": engine, **score(folder, kind.symmetry, kind.bands_angstrom, outcome), **cost}


def relion_row(folder: Path, kind: Kind, niceness: int) -> Row:
    """Refine a set with RELION and judge it."""
    symmetry, diameter = facts_of(folder)
    arguments = peer.auto_refine(symmetry, 10 * math.ceil(1.1 * diameter / 10))
    cost = peer.measure(folder, arguments, niceness)
    out = folder / "relion"
    general = read_star(out / "run_model.star")["model_general"]
    halves = [out / f"run_half{n}_class001_unfil.mrc" for n in (1, 2)]
    claim = float(general["rlnCurrentResolution"].iloc[0])
    outcome = Outcome(out / "run_data.star", halves[0], halves[1], claim)
    iterations = len([*out.glob("run_it*_half1_model.star")]) - 1
    return {
        "tool": RELION,
        **score(folder, kind.symmetry, kind.bands_angstrom, outcome),
        "cpu_s": cost.workers_cpu_s,
        "leader_cpu_s": cost.leader_cpu_s,
        "peak_memory_mb": cost.peak_memory_mb,
        "iterations": iterations,
        "command": cost.command,
        "version": cost.version,
    }


def compare(folder: Path, name: str, seed: int, given: argparse.Namespace) -> list[Row]:
    """Rows of one set: emflow's, and RELION's where it can be had."""
    kind = KINDS[name]
    at = folder / f"{name}_s{seed}"
    prepare(at, kind, seed)
    about = {"set": name, "seed": seed, **kind.about()}
    rows = [about | emflow_row(at, kind, given.engine)]
    if (at / "relion" / "cost.json").is_file() or (peer.installed() and not given.no_peer):
        rows.append(about | relion_row(at, kind, given.nice))
    else:
        rows += [r for r in kept_rows() if (r["set"], r["seed"], r["tool"]) == (name, seed, RELION)]
        why = "--no-peer" if peer.installed() else "relion_refine_mpi and mpirun are not installed"
        print(f"{name} seed {seed}: RELION not run ({why}); {len(rows) - 1} kept result", file=sys.stderr)
    for row in rows:
        row["cpu_ms_per_particle"] = 1e3 * float(row["cpu_s"]) / kind.particles
    return rows


def noise(folder: Path, name: str, seed: int, given: argparse.Namespace) -> list[Row]:
    """Rows of pure noise: from its own first map, and from a wrong map."""
    at = folder / f"{name}_s{seed}"
    prepare(at, NOISE[name], seed)
    prepare_wrong_reference(at)
    symmetry, diameter = facts_of(at)
    rows: list[Row] = []
    for label, start in (("wrong map, 30 Å", at / "start"), ("wrong map, full", at / "wrong")):
        out = at / f"emflow_{given.engine}_{start.name}"
        rows.append({"start": label, **refine(at, start, out)})
    first = at / f"abinitio_{given.engine}"
    words = ["reconstruct", "abinitio", str(at / "particles.star"), str(first)]
    begun = measured(first, *words, "--symmetry", symmetry, "--diameter-angstrom", f"{diameter:g}")
    rows.append({"start": "none (ab initio)", **begun, **stated(first)})
    rows.append({"start": "own first map", **refine(at, first, at / f"emflow_{given.engine}_own")})
    about = {"set": name, "seed": seed, **NOISE[name].about(), "tool": given.engine}
    return [about | row for row in rows]


def kept_rows() -> list[Row]:
    """Results written before."""
    rows: list[Row] = json.loads(RESULTS.read_text())["results"] if RESULTS.is_file() else []
    return rows


def keep(rows: list[Row]) -> None:
    """Put results among those kept, in place of older ones of the same set, seed, tool and start."""
    identity = ("set", "seed", "tool", "start")

    def key(row: Row) -> list[str]:
        return [str(row.get(name)) for name in identity]

    new = [key(row) for row in rows]
    kept = [row for row in kept_rows() if key(row) not in new] + [
        {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows
    ]
    about = {
        "command": "python benchmarks/reconstruct.py FOLDER SET... --seeds 0 1 2 --write",
        "note": (
            "blind, from the truth to 30 Å; one thread; cpu_s of RELION is that of its two workers, user and system, "
            "on the same machine; Debian's RELION is the double-precision CPU build, its slow path"
        ),
        "results": sorted(kept, key=key),
    }
    RESULTS.write_text(json.dumps(about, indent=1) + "\n")


def main() -> None:
    """Run the sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("results/reconstruct_benchmark"))
    parser.add_argument("sets", nargs="*", default=[*KINDS, *NOISE], help=" ".join([*KINDS, *NOISE]))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--engine", default="emflow", help="name of the emflow that is measured")
    parser.add_argument("--no-peer", action="store_true", help="do not start RELION; kept runs are shown")
    parser.add_argument("--nice", type=int, default=0, help="niceness of RELION")
    parser.add_argument("--write", action="store_true", help="add to benchmarks/results")
    given = parser.parse_args()
    for name in given.sets:
        if name not in KINDS | NOISE:
            parser.error(f"{name} is no set; expected some of {', '.join(KINDS | NOISE)}")
    torch.set_num_threads(1)
    compared: list[Row] = []
    judged: list[Row] = []
    for seed in given.seeds:
        for name in given.sets:
            rows = (compare if name in KINDS else noise)(given.folder, name, seed, given)
            (compared if name in KINDS else judged).extend(rows)
            if given.write:
                keep(rows)
    print_table(compared, RELION)
    print_noise(judged)


if __name__ == "__main__":
    main()

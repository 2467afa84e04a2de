"""New particles join an earlier refinement; killed runs end with the same bytes; results bear half precision."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from emflow.em.fsc import fsc
from emflow.em.images import ImageSet, noise_spectra
from emflow.em.poses import angular_distance_deg, euler_to_matrix
from emflow.em.slices import HalfPlane
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.particle_images import image_set
from emflow.io.particles import Particles, load_particles
from emflow.io.star import Tables, floats, read_star, read_table, write_star
from emflow.reconstruct import command
from emflow.reconstruct.config import ReconstructRefine
from emflow.reconstruct.inputs import read_particles, read_previous
from emflow.reconstruct.merge import accumulate
from emflow.reconstruct.refine import HalfState, Refinement
from emflow.step import EmflowError, Run

COUNT, FIRST = 240, 192
CFG = ReconstructRefine(diameter_angstrom=120, max_iterations=4)
RUN = Run(threads=1, device="cpu")
FILES = ("half1.mrc", "half2.mrc", "map.mrc", "mask.mrc", "particles.star", "fsc.star", "metrics.json")


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, make_particles: Callable) -> tuple:
    """Eight micrographs refined; then two more, one of each half-set, and a warm start with them."""
    folder = tmp_path_factory.mktemp("grown")
    truth = make_particles(folder, COUNT, 1.2)
    images = image_set(load_particles(truth.star), torch.device("cpu"))
    plane = images.plane(6)  # the start is coarse
    for half in (1, 2):
        rows = images.rows(half)
        noise = noise_spectra(images, rows, plane)
        poses = truth.rotations[rows][:, None], truth.shifts_px[rows][:, None]
        start = accumulate(images, rows, *poses, noise, plane, "C1").solve()
        write_mrc(folder / "start" / f"half{half}.mrc", start.numpy(), 6.0)
    tables = read_star(truth.star)
    write_star(folder / "first.star", {**tables, "particles": tables["particles"].iloc[:FIRST]})
    command.refine(folder / "first.star", folder / "start", folder / "first", cfg=CFG, run=RUN)
    command.refine(truth.star, folder / "first", folder / "warm", cfg=CFG, run=RUN)
    return truth, folder


def metrics_of(folder: Path) -> dict[str, float]:
    figures: dict[str, float] = json.loads((folder / "metrics.json").read_text())
    return figures


def rotations_of(folder: Path) -> Tensor:
    table = read_table(folder / "particles.star", "particles")
    angles = np.stack([floats(table, f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")], 1)
    return euler_to_matrix(torch.from_numpy(angles))


def test_old_poses_stay_and_new_ones_are_found(grown: tuple) -> None:
    truth, folder = grown
    before, after = rotations_of(folder / "first"), rotations_of(folder / "warm")
    assert angular_distance_deg(after[:FIRST], before).median() < 3
    error = angular_distance_deg(after, truth.rotations.double())
    assert error[FIRST:].median() < 1.3 * error[:FIRST].median() + 1
    first, warm = metrics_of(folder / "first"), metrics_of(folder / "warm")
    assert warm["resolution_angstrom"] <= 1.05 * first["resolution_angstrom"]
    maps = [torch.from_numpy(read_mrc(folder / name / "half1.mrc")) for name in ("first", "warm")]
    assert fsc(*maps)[1:7].min() > 0.9, "one frame"


def test_figures_and_verdicts_say_that_it_was_warm(grown: tuple) -> None:
    _, folder = grown
    first, warm = metrics_of(folder / "first"), metrics_of(folder / "warm")
    assert (first["warm_start_particles"], first["new_particles"]) == (0, FIRST)
    assert (warm["warm_start_particles"], warm["new_particles"]) == (FIRST, COUNT - FIRST)
    rows = {
        name: [row["evidence"] for row in json.loads((folder / name / "verdicts.json").read_text())]
        for name in ("first", "warm")
    }
    assert any("192 particles kept the poses" in text and "48 new ones" in text for text in rows["warm"])
    assert not any("kept the poses" in text for text in rows["first"])


def test_only_new_particles_are_searched_globally_against_their_own_half(
    grown: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, folder = grown
    find_poses = Refinement.find_poses
    seen: list[tuple[bool, Tensor, Tensor]] = []

    def watched(
        self: Refinement, half: HalfState, band: float, everywhere: bool, random: torch.Generator
    ) -> tuple[HalfState, Tensor]:
        seen.append((everywhere, half.rows, half.volume))
        return find_poses(self, half, band, everywhere, random)

    monkeypatch.setattr(Refinement, "find_poses", watched)
    command.refine(truth.star, folder / "first", tmp_path / "warm", cfg=CFG, run=RUN)
    wide = [(rows, volume) for everywhere, rows, volume in seen if everywhere]
    assert [rows.tolist() for rows, _ in wide] == [list(range(192, 216)), list(range(216, 240))]
    half = np.asarray(read_table(truth.star, "particles")["rlnRandomSubset"])
    assert [set(half[rows.numpy()]) for rows, _ in wide] == [{"1"}, {"2"}]
    assert not torch.equal(wide[0][1], wide[1][1])
    for file in FILES:
        assert (tmp_path / "warm" / file).read_bytes() == (folder / "warm" / file).read_bytes()


def changed(tables: Tables, **columns: object) -> Tables:
    return {**tables, "particles": tables["particles"].assign(**columns)}


def test_what_is_no_warm_start(grown: tuple, tmp_path: Path) -> None:
    truth, folder = grown
    particles, tables = read_particles(truth.star), read_star(truth.star)
    assert read_previous(folder / "start", particles, "C1") is None, "half maps alone"
    assert read_previous(folder / "first", particles, "D2") is None, "another symmetry: another frame"
    control = changed(tables, emflowNoiseControl="20.0")
    write_star(tmp_path / "control.star", control)
    assert read_previous(folder / "first", read_particles(tmp_path / "control.star"), "C1") is None
    names = [f"x{i}" if i > 60 else name for i, name in enumerate(particles.table["emflowParticleId"])]
    write_star(tmp_path / "others.star", changed(tables, emflowParticleId=names))
    few = read_particles(tmp_path / "others.star")
    previous = read_previous(folder / "first", few, "C1")
    assert previous is not None
    assert int(previous.known.sum()) == 61
    assert not previous.enough(torch.tensor([1, 2] * (COUNT // 2)))


@pytest.mark.parametrize("what", ["particle", "micrograph"])
def test_half_sets_are_never_reassigned(grown: tuple, tmp_path: Path, what: str) -> None:
    truth, folder = grown
    tables = read_star(truth.star)
    halves = tables["particles"]["rlnRandomSubset"].tolist()
    halves[5] = "2" if halves[5] == "1" else "1"
    columns: dict[str, object] = {"rlnRandomSubset": halves}
    if what == "micrograph":  # a new particle of an old micrograph: its box may overlap with others
        ids = load_particles(truth.star).table["emflowParticleId"].tolist()
        columns["emflowParticleId"] = [*ids[:5], "new", *ids[6:]]
    write_star(tmp_path / "moved.star", changed(tables, **columns))
    with pytest.raises(EmflowError, match=f"The {what} .* is in half-set 2 .* but was in 1"):
        command.refine(tmp_path / "moved.star", folder / "first", tmp_path / "out", cfg=CFG, run=RUN)


QUICK = ["--n-starts", "2", "--max-starts", "2", "--n-iterations", "10", "--n-drawn", "60"]
QUICK += ["--resolution-angstrom", "40", "--shift-fraction", "0.1"]


@pytest.mark.parametrize("step", ["abinitio", "first", "warm"])
def test_killed_it_ends_with_the_same_bytes(grown: tuple, tmp_path: Path, step: str) -> None:
    truth, folder = grown
    out = tmp_path / "killed"
    words, kept = {
        "abinitio": (["abinitio", truth.star, out, *QUICK], "starts1"),
        "first": (["refine", folder / "first.star", folder / "start", out, "--max-iterations", "4"], "state"),
        "warm": (["refine", truth.star, folder / "first", out, "--max-iterations", "4"], "state"),
    }[step]
    facts = ["--diameter-angstrom", "120", "--threads", "1", "--device", "cpu"]
    whole = [sys.executable, "-m", "emflow.cli", "reconstruct", *map(str, words), *facts]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(whole, env=environment)
    while not (out / ".checkpoint" / f"{kept}.safetensors").exists() and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not (out / "map.mrc").exists()
    subprocess.run(whole, env=environment, check=True)
    assert not list((out / ".checkpoint").glob("*.store")), "the copy of the particles is removed at the end"
    if step == "abinitio":
        whole[whole.index(str(out))] = str(folder / step)
        subprocess.run(whole, env=environment, check=True)
    for file in FILES:
        assert (out / file).read_bytes() == (folder / step / file).read_bytes()


class Exact:
    """Fourier pixels in full precision, in the place of a store."""

    scale = 1.0

    def __init__(self, images: ImageSet, plane: HalfPlane) -> None:
        self.values = plane.transform(images.read(torch.arange(len(images)))).transpose(1, 2)

    def __enter__(self) -> Exact:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def read(self, rows: Tensor, count: int) -> Tensor:
        return self.values[rows, :count]


def test_half_precision_harms_neither_poses_nor_map(grown: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = grown

    def exact(path: Path, particles: Particles, images: ImageSet, plane: HalfPlane) -> Exact:
        return Exact(images, plane)

    monkeypatch.setattr(command, "open_store", exact)
    command.refine(folder / "first.star", folder / "start", folder / "exact", cfg=CFG, run=RUN)
    half, full = (rotations_of(folder / name) for name in ("first", "exact"))
    assert angular_distance_deg(half, full).mean() < 0.3
    maps = [torch.from_numpy(read_mrc(folder / name / "half1.mrc")) for name in ("first", "exact")]
    assert fsc(*maps)[:13].min() > 0.998
    assert metrics_of(folder / "first")["resolution_angstrom"] == pytest.approx(
        metrics_of(folder / "exact")["resolution_angstrom"], rel=0.02
    )

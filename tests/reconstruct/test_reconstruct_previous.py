"""A refinement in one place, run again as particles come: it goes on from its previous result, or says why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from emflow.em.fsc import fsc
from emflow.em.images import noise_spectra
from emflow.em.poses import angular_distance_deg, euler_to_matrix
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.particle_images import image_set
from emflow.io.particles import load_particles
from emflow.io.star import floats, read_star, read_table, write_star
from emflow.reconstruct import command
from emflow.reconstruct.config import ReconstructRefine
from emflow.reconstruct.inputs import read_particles, read_previous
from emflow.reconstruct.merge import accumulate
from emflow.reconstruct.refine import Refinement, State
from emflow.step import EmflowError, Run

COUNT, FIRST = 240, 192
CFG = ReconstructRefine(diameter_angstrom=120, max_iterations=4)
FILES = ("half1.mrc", "half2.mrc", "particles.star", "metrics.json")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, make_particles: Callable) -> tuple[Path, Path]:
    """Folder with all particles' table and a coarse start; the same with a first refinement of some."""
    folder = tmp_path_factory.mktemp("previous")
    truth = make_particles(folder, COUNT, 1.2)
    images = image_set(load_particles(truth.star), torch.device("cpu"))
    plane = images.plane(6)
    for half in (1, 2):
        rows = images.rows(half)
        poses = truth.rotations[rows][:, None], truth.shifts_px[rows][:, None]
        noise = noise_spectra(images, rows, plane)
        start = accumulate(images, rows, *poses, noise, plane, "C1").solve()
        write_mrc(folder / "start" / f"half{half}.mrc", start.numpy(), 6.0)
    tables = read_star(truth.star)
    write_star(folder / "first.star", {**tables, "particles": tables["particles"].iloc[:FIRST]})
    refine(folder / "first.star", folder, folder / "out")
    return truth.star, folder


def refine(star: Path, folder: Path, out: Path, cfg: ReconstructRefine = CFG) -> dict[str, object]:
    """Refine as the workflow does; return the record."""
    run = Run(threads=1, device="cpu", record=out / "record.json")
    for file in FILES:  # as Snakemake does
        (out / file).unlink(missing_ok=True)
    command.refine(star, folder / "start", out, previous=out / ".previous", cfg=cfg, run=run)
    content: dict[str, object] = json.loads((out / "record.json").read_text())
    return content


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder / "out", to)
    return to


def rotations_of(folder: Path) -> Tensor:
    table = read_table(folder / "particles.star", "particles")
    angles = np.stack([floats(table, f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")], 1)
    return euler_to_matrix(torch.from_numpy(angles))


def test_it_goes_on_and_agrees_with_a_full_run(first: tuple[Path, Path], tmp_path: Path) -> None:
    star, folder = first
    out = copied(folder, tmp_path / "out")
    record = refine(star, folder, out)
    assert record["known_particles"] == FIRST
    assert str(record["began"]).startswith("from the previous result (00001-")
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["warm_start_particles"], metrics["anew_particles"]) == (FIRST, FIRST)
    assert metrics["new_particles"] == COUNT - FIRST
    full = refine(star, folder, tmp_path / "full")
    assert "there is no previous result" in str(full["began"])
    angles = angular_distance_deg(rotations_of(out), rotations_of(tmp_path / "full"))
    assert angles[:FIRST].median() < 3
    assert angles[FIRST:].median() < 3
    maps = [torch.from_numpy(read_mrc(place / "half1.mrc")) for place in (out, tmp_path / "full")]
    assert fsc(*maps)[1:7].min() > 0.9
    halves = [read_table(place, "particles")["rlnRandomSubset"] for place in (star, out / "particles.star")]
    assert list(halves[0]) == list(halves[1])


def test_the_same_history_gives_the_same_bytes_also_when_a_run_is_repeated(
    first: tuple[Path, Path], tmp_path: Path
) -> None:
    star, folder = first
    once, again = (copied(folder, tmp_path / name) for name in ("once", "again"))
    refine(star, folder, once)
    refine(star, folder, again)
    shutil.rmtree(again / ".checkpoint")
    record = refine(star, folder, again)  # killed after it had kept its result: it does not begin with that
    assert record["known_particles"] == FIRST
    for file in FILES:
        assert (once / file).read_bytes() == (again / file).read_bytes(), file


def test_when_it_begins_anew_it_says_why(
    first: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    star, folder = first
    monkeypatch.setattr(Refinement, "converged", lambda self, state: True)  # the beginning is enough
    cfg = CFG.model_copy(update={"warm_start": False})
    assert "warm_start is off" in str(refine(star, folder, copied(folder, tmp_path / "off"), cfg)["began"])
    out = copied(folder, tmp_path / "setting")
    monkeypatch.setenv("EMFLOW_LINEAGE", json.dumps({"reconstruct.refine": "another:"}))
    assert "a setting has changed" in str(refine(star, folder, out)["began"])
    assert json.loads((out / "metrics.json").read_text())["anew_particles"] == COUNT
    monkeypatch.delenv("EMFLOW_LINEAGE")
    out = copied(folder, tmp_path / "many")
    made = next((out / ".previous").glob("*/made.json"))
    made.write_text(
        made.read_text().replace(f'"anew_particles": {FIRST}', f'"anew_particles": {COUNT // 2 - 1}')
    )
    assert "more than half are new" in str(refine(star, folder, out)["began"])


def test_particles_that_are_centred_on_picks_are_searched_further(
    first: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    star, folder = first
    reached = []

    def converged(self: Refinement, state: State) -> bool:
        reached.append(self.cfg.shift_fraction)
        return True

    monkeypatch.setattr(Refinement, "converged", converged)
    tables = read_star(star)
    marks = ["1"] * FIRST + ["0"] * (COUNT - FIRST)
    marked = tables["particles"].assign(emflowPoseKnown=marks)
    refine(star, folder, copied(folder, tmp_path / "a"))
    write_star(folder / "later.star", {**tables, "particles": marked})
    refine(folder / "later.star", folder, copied(folder, tmp_path / "b"))
    assert reached == [CFG.shift_fraction, 0.15]
    assert "emflowPoseKnown" not in read_table(tmp_path / "b" / "particles.star", "particles")


def test_boxes_that_moved_keep_their_particles_where_they_are(first: tuple[Path, Path]) -> None:
    star, folder = first
    now = read_particles(star)
    moved = now.table.assign(rlnCoordinateX="104", rlnCoordinateY="98")
    kept = read_star(folder / "out" / "particles.star")
    kept["particles"] = kept["particles"].assign(rlnCoordinateX="100", rlnCoordinateY="100")
    write_star(folder / "moved" / "particles.star", kept)
    shutil.copy(folder / "out" / "metrics.json", folder / "moved")
    optics = now.optics.assign(rlnMicrographOriginalPixelSize="3.0")
    same = read_previous(folder / "out", now, "C1")
    shifted = read_previous(
        folder / "moved", type(now)(moved, optics, now.stacks, now.stack, now.index), "C1"
    )
    assert same is not None
    assert shifted is not None
    pixel = now.common_facts().pixel_size_angstrom
    change = (shifted.poses.shifts_px - same.poses.shifts_px) * pixel
    assert torch.allclose(change[:FIRST], torch.tensor([12.0, -6.0]), atol=1e-4)
    assert not change[FIRST:].any()


def test_a_particle_never_changes_its_half(first: tuple[Path, Path], tmp_path: Path) -> None:
    star, folder = first
    tables = read_star(star)
    swapped = tables["particles"]["rlnRandomSubset"].map({"1": "2", "2": "1"})
    other = {**tables, "particles": tables["particles"].assign(rlnRandomSubset=swapped)}
    write_star(folder / "swapped.star", other)
    with pytest.raises(EmflowError, match="Half-sets are set once"):
        refine(folder / "swapped.star", folder, copied(folder, tmp_path / "out"))

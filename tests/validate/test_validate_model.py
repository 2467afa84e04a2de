"""An atomic model in maps with known truth: in its place, beside it, turned, mirrored, wrong, overfitted."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from torch import Tensor

from emflow.em.atoms import AtomicModel, atom_density
from emflow.em.fourier import resample
from emflow.em.fsc import fsc
from emflow.em.masks import lowpass, soft_sphere
from emflow.io.atoms import read_model
from emflow.io.mrc import write_mrc
from emflow.io.star import floats, read_star
from emflow.step import EmflowError
from emflow.validate.command import maps
from emflow.validate.judge_model import judge_fit, judge_overfit
from emflow.validate.model import compare_in_space, model_curves, model_mask
from emflow.validate.place import place_model
from emflow.validate.qscore import q_scores

_spec = importlib.util.spec_from_file_location("bundle", Path(__file__).with_name("bundle.py"))
assert _spec is not None
assert _spec.loader is not None
helices = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(helices)
N, VOXEL = helices.N, helices.VOXEL
RESOLUTION = 4.0
TURN = Rotation.from_euler("zyz", [40, 70, -120], degrees=True).as_matrix()


@pytest.fixture(scope="module")
def truth() -> AtomicModel:
    return helices.bundle()


@pytest.fixture(scope="module")
def halves(truth: AtomicModel) -> tuple[Tensor, Tensor]:
    return helices.noisy_halves(helices.density(truth), 5.0)


def placed(model: AtomicModel, halves: tuple[Tensor, Tensor]):
    """Placement, curves, real space and verdict of a model."""
    full = (halves[0] + halves[1]) / 2
    ball = soft_sphere(N, 18, 4)
    placement = place_model(model, full, ball, VOXEL, round(N * VOXEL / RESOLUTION))
    density = helices.density(placement.model)
    curves = model_curves(density, model_mask(placement.model, N, VOXEL), full, halves, VOXEL)
    space = compare_in_space(placement.model, density, full, VOXEL, RESOLUTION)
    return placement, curves, space, judge_fit(placement, curves, space, VOXEL)


@pytest.fixture
def quick_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search orientations 16° apart instead of 10°: enough here, at a quarter of the cost."""
    monkeypatch.setattr("emflow.em.volume_align._COARSE_SPACING_DEG", 16.0)


def rms(a: AtomicModel, b: AtomicModel) -> float:
    return float(np.sqrt(((a.position - b.position) ** 2).sum(1).mean()))


def test_density_does_not_depend_on_the_grid_and_sharpens_with_b(truth: AtomicModel) -> None:
    fine = resample(atom_density(truth, 2 * N, VOXEL / 2), VOXEL / 2, N, VOXEL)
    curve = fsc(helices.density(truth), fine)
    assert float(curve[1 : int(0.8 * N / 2)].min()) > 0.9995
    sharp = helices.density(replace(truth, b_factor=truth.b_factor - 40))
    assert float(sharp.square().sum()) > 1.2 * float(helices.density(truth).square().sum())
    outside = truth.moved(np.eye(3), np.array([1000.0, 0, 0]))
    assert not bool(helices.density(outside).any())


def test_a_model_in_its_own_map_agrees_fully(truth: AtomicModel) -> None:
    density = helices.density(truth)
    curves = model_curves(density, model_mask(truth, N, VOXEL), density, (density, density), VOXEL)
    assert float(curves.full[1:-1].min()) > 0.999
    assert curves.fit_shell == N // 2
    space = compare_in_space(truth, density, density, VOXEL, RESOLUTION)
    assert space.mask > 0.999
    assert np.nanmin(space.residues) > 0.99
    assert space.included.mean() > 0.95


def test_q_score_is_one_for_the_reference_and_zero_beside_it() -> None:
    """A lone Gaussian of 0.6 Å on a fine grid; the paper's own definition of 1."""
    atom = replace(
        helices.bundle(), position=np.array([[1.03, -2.11, 0.4], [6.0, 0, 0]]), element=np.array(["C", "C"])
    )
    n, voxel = 64, 0.4
    line = (np.arange(n) - n // 2) * voxel
    squared = ((line[:, None, None] - 0.4) ** 2) + (line[:, None] + 2.11) ** 2 + (line - 1.03) ** 2
    volume = np.exp(-0.5 * squared / 0.6**2)
    q = q_scores(atom, volume, voxel)
    assert q[0] > 0.995
    assert not q[1] > 0.1
    wide = q_scores(atom, np.exp(-0.5 * squared / 2.0**2), voxel)[0]
    assert 0.5 < wide < 0.95


def test_q_score_takes_only_points_nearest_to_the_atom() -> None:
    """Beyond the plane half-way to a neighbour the map is no concern of an atom."""
    two = replace(
        helices.bundle(), position=np.array([[-0.75, 0, 0], [0.75, 0, 0]]), element=np.array(["C", "C"])
    )
    n, voxel = 48, 0.2
    line = (np.arange(n) - n // 2) * voxel
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    volume = np.exp(-0.5 * ((x + 0.75) ** 2 + y**2 + z**2) / 0.6**2)
    volume[x > 0.25] = 3.0
    assert q_scores(two, volume, voxel)[0] > 0.99
    alone = replace(two, position=two.position[:1])
    assert q_scores(alone, volume, voxel)[0] < 0.3


def test_q_score_falls_with_resolution_and_with_displacement(truth: AtomicModel) -> None:
    n, voxel = 80, 1.0
    sharp = atom_density(replace(truth, b_factor=truth.b_factor * 0 + 20), n, voxel)
    q = [float(np.nanmean(q_scores(truth, lowpass(sharp, voxel, d).numpy(), voxel))) for d in (2, 4, 7)]
    assert q[0] > q[1] > q[2]
    assert q[0] > 0.6
    aside = truth.moved(np.eye(3), np.array([1.5, 0, 0]))
    assert float(np.nanmean(q_scores(aside, sharp.numpy(), voxel))) < q[0] - 0.4


def test_a_model_in_place_stays_and_passes(truth: AtomicModel, halves: tuple[Tensor, Tensor]) -> None:
    placement, curves, space, verdict = placed(truth, halves)
    assert placement.moved_angstrom == 0
    assert not placement.searched
    assert curves.fit_shell >= 0.9 * curves.resolved_shell
    assert space.mask > 0.85
    assert verdict.verdict == "pass"
    assert judge_overfit(curves).verdict == "pass"


def test_a_shifted_model_is_worse_and_is_put_back(truth: AtomicModel, halves: tuple[Tensor, Tensor]) -> None:
    placement, _, _, verdict = placed(truth.moved(np.eye(3), np.array([1.2, -1.1, 1.2])), halves)
    assert placement.band_before < placement.band
    assert rms(placement.model, truth) < 0.2
    assert placement.moved_angstrom == pytest.approx(2.02, abs=0.2)
    assert verdict.verdict == "warn"
    assert "moved" in verdict.evidence


@pytest.mark.usefixtures("quick_search")
def test_a_turned_model_is_found(truth: AtomicModel, halves: tuple[Tensor, Tensor]) -> None:
    placement, _, _, verdict = placed(truth.moved(TURN, np.array([6.0, -4.0, 3.0])), halves)
    assert placement.searched
    assert rms(placement.model, truth) < 0.3
    assert verdict.verdict == "warn"
    np.testing.assert_allclose(placement.rotation, TURN.T, atol=0.03)


@pytest.mark.usefixtures("quick_search")
def test_a_mirrored_map_is_told(truth: AtomicModel, halves: tuple[Tensor, Tensor]) -> None:
    mirrored = (halves[0].flip(2), halves[1].flip(2))
    placement, curves, _, verdict = placed(truth, mirrored)
    assert placement.mirrored
    assert curves.fit_shell >= 0.9 * curves.resolved_shell
    assert verdict.verdict == "fail"
    assert "other hand" in verdict.evidence


@pytest.mark.usefixtures("quick_search")
def test_a_wrong_model_fits_nowhere(halves: tuple[Tensor, Tensor]) -> None:
    _, curves, space, verdict = placed(helices.bundle(seed=5), halves)
    assert verdict.verdict == "fail"
    assert "No place was found" in verdict.evidence
    assert space.mask < 0.6
    assert curves.fit_shell < 0.5 * curves.resolved_shell


@pytest.mark.parametrize("kind", ["one half", "both"])
def test_a_model_that_follows_the_noise_is_told(truth: AtomicModel, kind: str) -> None:
    pure = lowpass(helices.density(truth), VOXEL, 6.0)
    halves = helices.noisy_halves(pure, 9.0)
    noise = [half - pure for half in halves]
    learnt = noise[0] if kind == "one half" else noise[0] + noise[1]
    full, mask = (halves[0] + halves[1]) / 2, model_mask(truth, N, VOXEL)
    honest = judge_overfit(model_curves(helices.density(truth), mask, full, halves, VOXEL))
    assert honest.verdict == "pass"
    curves = model_curves(pure + 0.5 * learnt, mask, full, halves, VOXEL)
    verdict = judge_overfit(curves)
    assert verdict.verdict == "warn"
    assert (
        "noise of half map 1" if kind == "one half" else "better than they with each other"
    ) in verdict.evidence


def write_maps(folder: Path, halves: tuple[Tensor, Tensor]) -> tuple[Path, Path]:
    for k in (0, 1):
        write_mrc(folder / f"half{k + 1}.mrc", halves[k].numpy(), VOXEL)
    return folder / "half1.mrc", folder / "half2.mrc"


def test_the_command_names_the_residue_that_was_moved(
    tmp_path: Path, truth: AtomicModel, halves: tuple[Tensor, Tensor]
) -> None:
    chosen = 40
    position = truth.position.copy()
    outward = truth.position[truth.residue == chosen].mean(0)
    position[truth.residue == chosen] += 5.0 * outward / np.linalg.norm(outward)
    moved = replace(truth, position=position)
    helices.write_model(str(tmp_path / "model.cif"), moved)
    maps(*write_maps(tmp_path, halves), tmp_path / "out", model=tmp_path / "model.cif")
    out = tmp_path / "out"
    verdicts = {row["question"]: row for row in json.loads((out / "verdicts.json").read_text())}
    assert verdicts["Does the model fit the map?"]["verdict"] == "pass"
    row = verdicts["Does every residue fit?"]
    assert row["verdict"] == "warn"
    label = f"{truth.residue_chain[chosen]} CYS {truth.residue_number[chosen]}"
    assert label in row["evidence"]
    table = read_star(out / "model.star")["residues"]
    assert int(floats(table, "emflowRealSpaceCorrelation").argmin()) == chosen
    assert int(floats(table, "emflowQScore").argsort().tolist().index(chosen)) < 3
    assert {"model_fsc.png", "residues.png"} <= {p.name for p in (out / "figures").iterdir()}
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["model_moved_angstrom"] == 0
    details = json.loads((out / "validation.json").read_text())["model"]
    assert details["rotation"] == np.eye(3).tolist()


@pytest.mark.parametrize("kind", ["origin", "start"])
def test_the_origin_of_the_map_is_honoured(
    tmp_path: Path, truth: AtomicModel, halves: tuple[Tensor, Tensor], kind: str
) -> None:
    import mrcfile

    from emflow.io.mrc import read_header
    from emflow.validate.inputs import read_model as read_in_frame

    path, _ = write_maps(tmp_path, halves)
    with mrcfile.open(path, mode="r+") as mrc:
        if kind == "origin":
            mrc.header.origin.x = 16.0
        else:
            mrc.header.nxstart = 10
    helices.write_model(str(tmp_path / "model.pdb"), truth.moved(np.eye(3), np.array([16.0, 0, 0])))
    model = read_in_frame(tmp_path / "model.pdb", read_header(path), VOXEL)
    np.testing.assert_allclose(model.position, truth.position, atol=2e-3)
    assert model.residue_chain == truth.residue_chain


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pdb"
    with pytest.raises(EmflowError, match="no such model file"):
        read_model(path)
    path.write_text("HEADER\nEND\n")
    with pytest.raises(EmflowError, match="model.pdb"):
        read_model(path)
    line = "ATOM      1  N   GLY A   1      11.000  12.000  13.000  1.00 10.00           N\n"
    path.write_text(line.replace("  11.000", "     nan"))
    with pytest.raises(EmflowError, match="finite|readable"):
        read_model(path)
    path.write_text(line[:76] + " X\n")
    with pytest.raises(EmflowError, match="scattering factor"):
        read_model(path)

"""From particles to a refined map: the truth is found again, by files, and nothing is found in noise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from emflow.em.frames import align_frames
from emflow.em.fsc import fsc
from emflow.em.poses import angular_distance_deg, euler_to_matrix, matrix_to_euler
from emflow.em.volume_align import align_poses, apply_alignment
from emflow.io.mrc import UNRESTORED_LABEL, read_header, read_mrc
from emflow.io.star import floats, read_star, read_table, write_star
from emflow.reconstruct.abinitio import HalfSearch, Start
from emflow.reconstruct.command import abinitio, refine
from emflow.reconstruct.config import ReconstructAbinitio, ReconstructRefine
from emflow.step import EmflowError, Run

FILES = (
    "half1.mrc", "half2.mrc", "map.mrc", "mask.mrc",
    "particles.star", "fsc.star", "metrics.json", "verdicts.json",
)  # fmt: skip
QUICK = {
    "n_starts": 1,
    "max_starts": 3,
    "n_iterations": 15,
    "n_drawn": 60,
    "resolution_angstrom": 40.0,
    "shift_fraction": 0.1,
}
RUN = Run(threads=1, device="cpu")


def metrics_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())


def verdicts_of(folder: Path) -> list[dict[str, str]]:
    return json.loads((folder / "verdicts.json").read_text())


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, make_particles: Callable) -> tuple:
    """Ab initio and refinement of a small set."""
    folder = tmp_path_factory.mktemp("chain")
    truth = make_particles(folder, 200, 1.2)
    cfg = ReconstructAbinitio(diameter_angstrom=120, **QUICK)
    abinitio(truth.star, folder / "abinitio", cfg=cfg, run=RUN)
    cfg2 = ReconstructRefine(diameter_angstrom=120, max_iterations=4)
    refine(truth.star, folder / "abinitio", folder / "refine", cfg=cfg2, run=RUN)
    return truth, folder


def pose_errors(truth, folder: Path) -> torch.Tensor:
    """Errors after the best rotation and hand, which the true map gives."""
    table = read_table(folder / "particles.star", "particles")
    angles = torch.tensor(np.stack([floats(table, f"rlnAngle{a}") for a in ("Rot", "Tilt", "Psi")], 1))
    volume = torch.from_numpy(read_mrc(folder / "map.mrc"))
    alignment = align_frames(volume, truth.volume, "C1", 9)
    turned, _ = align_poses(euler_to_matrix(angles), torch.zeros(len(angles), 2).double(), alignment)
    return angular_distance_deg(turned, truth.rotations.double())


@pytest.mark.parametrize("step", ["abinitio", "refine"])
def test_all_files_are_there_and_the_map_is_the_specimen(chain: tuple, step: str) -> None:
    truth, folder = chain
    assert all((folder / step / name).exists() for name in FILES)
    volume = torch.from_numpy(read_mrc(folder / step / "map.mrc"))
    assert read_header(folder / step / "map.mrc").voxel_size_angstrom == pytest.approx(6.0)
    assert UNRESTORED_LABEL in read_header(folder / step / "half1.mrc").labels
    alignment = align_frames(volume, truth.volume, "C1", 9)
    assert fsc(apply_alignment(volume, alignment), truth.volume)[1:7].min() > 0.7
    assert pose_errors(truth, folder / step).median() < (8 if step == "abinitio" else 6)


def test_verdicts_and_figures_claim_what_the_halves_agree_on(chain: tuple) -> None:
    _, folder = chain
    for step in ("abinitio", "refine"):
        metrics, verdicts = metrics_of(folder / step), verdicts_of(folder / step)
        assert verdicts[0]["verdict"] in ("pass", "warn")
        assert 12 <= metrics["resolution_angstrom"] < 30
        assert metrics["significance_aspherical_sd"] > 8
        assert metrics["half1_particles"] + metrics["half2_particles"] == 200
    assert any(
        "mirror" in row["evidence"] and row["verdict"] == "unknown"
        for row in verdicts_of(folder / "abinitio")
    )
    table = read_table(folder / "refine" / "fsc.star", "fsc")
    assert len(table) == 17
    assert {"rlnSpectralIndex", "rlnResolution", "rlnAngstromResolution"} <= set(table.columns)


def test_columns_of_the_input_come_out_unchanged(chain: tuple) -> None:
    truth, folder = chain
    before = read_star(truth.star)["particles"]
    for step in ("abinitio", "refine"):
        after = read_star(folder / step / "particles.star")["particles"]
        for column in before:
            assert list(after[column]) == list(before[column])
        assert {"rlnAnglePsi", "rlnOriginXAngst"} <= set(after.columns)
    refined = read_table(folder / "refine" / "particles.star", "particles")
    assert (
        (floats(refined, "emflowPoseSigmaDeg") > 0.05) & (floats(refined, "emflowPoseSigmaDeg") < 20)
    ).all()
    assert floats(refined, "emflowShiftSigmaAngst").max() < 6.0  # a pixel
    assert np.median(floats(refined, "rlnLogLikeliContribution")) > 0


def test_shifts_are_relions_origins(chain: tuple) -> None:
    truth, folder = chain
    table = read_table(folder / "refine" / "particles.star", "particles")
    origins = np.stack([floats(table, f"rlnOrigin{a}Angst") for a in "XY"], 1) / 6.0
    error = np.linalg.norm(origins - truth.shifts_px.numpy(), axis=1)
    # the map may stand off the centre by a fraction of a voxel
    assert np.median(error) < 0.8 < np.median(np.linalg.norm(origins + truth.shifts_px.numpy(), axis=1))


def test_a_killed_refinement_goes_on_to_the_same_bytes(
    chain: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emflow.reconstruct.refine import Refinement

    truth, folder = chain
    cfg = ReconstructRefine(diameter_angstrom=120, max_iterations=4)
    iterate = Refinement.iterate
    done: list[int] = []

    def dies(self: Refinement, state):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(state.iteration)
        return iterate(self, state)

    monkeypatch.setattr(Refinement, "iterate", dies)
    with pytest.raises(KeyboardInterrupt):
        refine(truth.star, folder / "abinitio", tmp_path / "refine", cfg=cfg, run=RUN)
    assert not (tmp_path / "refine" / "map.mrc").exists()

    def counts(self: Refinement, state):
        done.append(state.iteration)
        return iterate(self, state)

    monkeypatch.setattr(Refinement, "iterate", counts)
    refine(truth.star, folder / "abinitio", tmp_path / "refine", cfg=cfg, run=RUN)
    assert done[:3] == [0, 1, 2]
    for name in FILES:
        assert (tmp_path / "refine" / name).read_bytes() == (folder / "refine" / name).read_bytes()


def test_noise_alone_gives_no_structure(tmp_path: Path, make_particles: Callable) -> None:
    noise = make_particles(tmp_path, 120, 0.0)
    cfg = ReconstructAbinitio(diameter_angstrom=120, **QUICK)
    abinitio(noise.star, tmp_path / "abinitio", cfg=cfg, run=RUN)
    refine(
        noise.star,
        tmp_path / "abinitio",
        tmp_path / "refine",
        cfg=ReconstructRefine(diameter_angstrom=120, max_iterations=2),
        run=RUN,
    )
    for step in ("abinitio", "refine"):
        assert metrics_of(tmp_path / step)["resolution_angstrom"] is None
        first = verdicts_of(tmp_path / step)[0]
        assert first["verdict"] == "fail"
        assert "No structure" in first["evidence"]
    assert metrics_of(tmp_path / "abinitio")["n_starts"] == 3, "1, then 2, then 3: as long as nothing agrees"


def test_a_killed_search_keeps_its_starts(
    chain: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, folder = chain
    cfg = ReconstructAbinitio(diameter_angstrom=120, **QUICK)
    explore = HalfSearch.explore
    done: list[int] = []

    def dies(self: HalfSearch, number: int) -> Start:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(self.half)
        return explore(self, number)

    monkeypatch.setattr(HalfSearch, "explore", dies)
    with pytest.raises(KeyboardInterrupt):
        abinitio(truth.star, tmp_path / "abinitio", cfg=cfg, run=RUN)
    assert not (tmp_path / "abinitio" / "map.mrc").exists()

    def counts(self: HalfSearch, number: int) -> Start:
        done.append(self.half)
        return explore(self, number)

    monkeypatch.setattr(HalfSearch, "explore", counts)
    abinitio(truth.star, tmp_path / "abinitio", cfg=cfg, run=RUN)
    assert done == [1, 2], "half 1's start was kept; halves that agree need no more"
    for name in FILES:
        assert (tmp_path / "abinitio" / name).read_bytes() == (folder / "abinitio" / name).read_bytes()


def test_symmetry_is_used(tmp_path: Path, make_particles: Callable) -> None:
    truth = make_particles(tmp_path, 100, 0.4, "D2")
    cfg = ReconstructAbinitio(
        diameter_angstrom=120, symmetry="D2", **{**QUICK, "resolution_angstrom": 30.0, "n_starts": 3}
    )
    abinitio(truth.star, tmp_path / "out", cfg=cfg, run=RUN)
    half = torch.from_numpy(read_mrc(tmp_path / "out" / "half1.mrc"))[1:, 1:, 1:]
    for axes in ((1, 2), (0, 2), (0, 1)):
        assert torch.allclose(half, half.flip(axes), atol=1e-4 * float(half.abs().max()))
    volume = torch.from_numpy(read_mrc(tmp_path / "out" / "map.mrc"))
    alignment = align_frames(volume, truth.volume, "D2", 9)
    assert fsc(apply_alignment(volume, alignment), truth.volume)[1:7].min() > 0.7


def test_a_set_without_particles_flows_through(tmp_path: Path, make_particles: Callable) -> None:
    few = make_particles(tmp_path, 20, 0.4)
    tables = read_star(few.star)
    for count in (0, 20):
        tables["particles"] = tables["particles"].iloc[:count]
        star, out = tmp_path / f"few{count}.star", tmp_path / f"out{count}"
        write_star(star, tables)
        abinitio(star, out / "abinitio", run=RUN)
        refine(star, out / "abinitio", out / "refine", run=RUN)
        for step in ("abinitio", "refine"):
            assert all((out / step / name).exists() for name in FILES)
            assert not read_mrc(out / step / "map.mrc").any()
            assert verdicts_of(out / step)[0]["verdict"] == "fail"
            assert metrics_of(out / step)["particles"] == count
        tables = read_star(few.star)


def test_halves_alternate_by_micrograph_where_there_are_none(
    tmp_path: Path, make_particles: Callable
) -> None:
    from emflow.reconstruct.inputs import read_particles

    loose = make_particles(tmp_path, 60, 0.4, halves=False)
    table = read_particles(loose.star).table
    by_micrograph = table.groupby("rlnMicrographName")["rlnRandomSubset"].unique()
    assert [list(value) for value in by_micrograph] == [["1"], ["2"]] * 5


def test_restored_particles_are_refused(tmp_path: Path, make_particles: Callable) -> None:
    marked = make_particles(tmp_path, 60, 0.4)
    tables = read_star(marked.star)
    tables["particles"] = tables["particles"].assign(emflowRestored="1")
    write_star(marked.star, tables)
    with pytest.raises(EmflowError, match="restored"):
        abinitio(marked.star, tmp_path / "out", run=RUN)


def test_a_diameter_wider_than_the_box_is_named(tmp_path: Path, make_particles: Callable) -> None:
    truth = make_particles(tmp_path, 60, 0.4)
    with pytest.raises(EmflowError, match="diameter_angstrom"):
        abinitio(truth.star, tmp_path / "out", cfg=ReconstructAbinitio(diameter_angstrom=300), run=RUN)


def test_angles_written_are_relions(chain: tuple) -> None:
    _, folder = chain
    table = read_table(folder / "refine" / "particles.star", "particles")
    angles = torch.tensor(np.stack([floats(table, f"rlnAngle{a}") for a in ("Rot", "Tilt", "Psi")], 1))
    assert angles[:, 1].min() >= 0
    assert angles[:, 1].max() <= 180
    back = matrix_to_euler(euler_to_matrix(angles))
    assert torch.allclose(back, angles, atol=1e-3)

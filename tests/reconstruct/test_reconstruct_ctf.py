"""Refinement of the CTF: what was simulated is found, and nothing is found where there is nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emflow.em.fsc import fsc
from emflow.em.images import ImageSet, noise_spectra
from emflow.em.masks import soft_sphere
from emflow.em.optics import ctf_values
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.particle_images import image_set, poses_of
from emflow.io.particles import load_particles
from emflow.io.star import floats, read_star, read_table, write_star
from emflow.reconstruct.command_ctf import ctf
from emflow.reconstruct.config import ReconstructCtf
from emflow.reconstruct.ctf_match import Changes, Matcher, Views, geometry_of
from emflow.reconstruct.ctf_refine import CtfFit, CtfRefinement, make_matcher
from emflow.reconstruct.defocus_grid import Grid, evaluate
from emflow.reconstruct.defocus_prior import fit_population
from emflow.reconstruct.inputs import read_halves
from emflow.reconstruct.inputs_ctf import places_of, views_of
from emflow.reconstruct.merge import accumulate
from emflow.simulate.command import particles as simulate
from emflow.simulate.config import SimulateParticles
from emflow.step import EmflowError, Run

RUN = Run(threads=1, device="cpu")
CPU = torch.device("cpu")
SET = SimulateParticles(
    mass_kda=90, n_domains=4, diameter_angstrom=90, box_px=64, pixel_size_angstrom=2.2, n_particles=480,
    particles_per_micrograph=24, snr=0.5, defocus_min_um=0.8, defocus_max_um=1.6, astigmatism_max_um=0.05,
    defocus_spread_angstrom=400, beam_tilt_mrad=(0.9, -0.6), n_state_volumes=1,
)  # fmt: skip
CFG = ReconstructCtf(diameter_angstrom=95)
ASTIGMATISM = 400.0
"""By how much the table is wrong."""


@dataclass(frozen=True)
class Case:
    """A simulated set with half maps made from its table."""

    folder: Path

    @property
    def star(self) -> Path:
        return self.folder / "given.star"

    def truth(self):
        return read_table(self.folder / "truth" / "particles.star", "particles")


def reconstruct(star: Path, out: Path, images: ImageSet | None = None) -> None:
    """Half maps at the poses of a table."""
    particles = load_particles(star)
    images = image_set(particles, CPU) if images is None else images
    voxel = images.pixel_size_angstrom
    rotations, shifts = poses_of(particles, voxel)
    plane = images.plane(images.box / 2)
    out.mkdir(exist_ok=True)
    for half in (1, 2):
        rows = images.rows(half)
        noise = noise_spectra(images, rows, plane)
        sums = accumulate(images, rows, rotations[rows], shifts[rows], noise, plane, "C1")
        write_mrc(out / f"half{half}.mrc", sums.solve().numpy(), voxel)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A set whose table knows neither tilt nor spread, and has a wrong astigmatism; refined."""
    folder = tmp_path_factory.mktemp("ctf")
    simulate(folder, cfg=SET, run=RUN)
    tables = read_star(folder / "particles.star")
    table = tables["particles"]
    mean = 0.5 * (floats(table, "rlnDefocusU") + floats(table, "rlnDefocusV"))
    vector = 0.5 * (floats(table, "rlnDefocusU") - floats(table, "rlnDefocusV"))
    vector = vector * np.exp(2j * np.deg2rad(floats(table, "rlnDefocusAngle"))) + ASTIGMATISM / 2
    table = table.assign(
        rlnDefocusU=mean + np.abs(vector),
        rlnDefocusV=mean - np.abs(vector),
        rlnDefocusAngle=np.rad2deg(np.angle(vector)) / 2,
        emflowOdd="0012",
    )
    write_star(folder / "given.star", {**tables, "particles": table})
    reconstruct(folder / "given.star", folder / "refined")
    ctf(folder / "given.star", folder / "refined", folder / "out", cfg=CFG, run=RUN)
    return Case(folder)


def means(table) -> np.ndarray:
    return 0.5 * (floats(table, "rlnDefocusU") + floats(table, "rlnDefocusV"))


def vectors(table) -> np.ndarray:
    u, v, angle = (floats(table, f"rlnDefocus{part}") for part in ("U", "V", "Angle"))
    return (u - v) * np.exp(2j * np.deg2rad(angle))


def test_each_particle_gets_its_defocus_and_says_how_sure(case: Case) -> None:
    found, truth = read_table(case.folder / "out" / "particles.star", "particles"), case.truth()
    given = read_table(case.star, "particles")
    before, after = (np.abs(means(table) - means(truth)) for table in (given, found))
    assert np.median(before) > 200
    assert np.median(after) < 0.4 * np.median(before)
    stated = floats(found, "emflowDefocusDeviation")
    assert 0.6 < np.sqrt(np.mean((after / stated) ** 2)) < 1.6
    spread = json.loads((case.folder / "out" / "metrics.json").read_text())["defocus_spread_angstrom"]
    assert spread == pytest.approx(400, rel=0.25)
    assert floats(found, "emflowContrast").mean() == pytest.approx(1, abs=0.02)
    assert floats(found, "emflowContrast").std() < 0.2


def test_what_was_not_changed_stays_as_text(case: Case) -> None:
    found = read_table(case.folder / "out" / "particles.star", "particles")
    given = read_table(case.star, "particles")
    assert found["emflowDefocusUBefore"].tolist() == given["rlnDefocusU"].tolist()
    for column in ("emflowOdd", "rlnAngleRot", "rlnMicrographName", "rlnRandomSubset"):
        assert found[column].tolist() == given[column].tolist()


def test_astigmatism_is_put_right(case: Case) -> None:
    found, truth = read_table(case.folder / "out" / "particles.star", "particles"), case.truth()
    error = np.abs(vectors(found) - vectors(truth))
    assert np.median(error) < 0.5 * ASTIGMATISM
    assert found.groupby("rlnMicrographName")["rlnDefocusAngle"].nunique().max() == 1


def test_beam_tilt_has_relions_sign_and_size(case: Case) -> None:
    optics = read_star(case.folder / "out" / "particles.star")["optics"]
    found = np.array([floats(optics, f"rlnBeamTilt{axis}")[0] for axis in "XY"])
    assert np.abs(found - SET.beam_tilt_mrad).max() < 0.15
    stated = floats(optics, "emflowBeamTiltDeviation")[0]
    assert np.linalg.norm(found - SET.beam_tilt_mrad) < 4 * stated + 0.05


def test_the_map_gains(case: Case) -> None:
    true = torch.from_numpy(read_mrc(case.folder / "truth" / "volume.mrc"))
    mask = soft_sphere(64, 24, 4)
    worth = []
    for name in ("refined", "out"):
        halves = [torch.from_numpy(read_mrc(case.folder / name / f"half{n}.mrc")) for n in (1, 2)]
        worth.append(float(fsc((halves[0] + halves[1]) * mask, true * mask)[14:29].mean()))
    assert worth[1] > worth[0] + 0.02
    verdicts = json.loads((case.folder / "out" / "verdicts.json").read_text())
    assert [row["verdict"] for row in verdicts] == ["pass", "pass", "unknown", "pass"], (
        "all envelopes are equal"
    )


def parts(case: Case, images: ImageSet | None = None) -> tuple[Matcher, torch.Tensor]:
    """Matcher and places of the set, with other images if given."""
    particles = load_particles(case.star)
    own = image_set(particles, CPU)
    views = views_of(particles, own)
    halves, _ = read_halves(case.folder / "refined")
    matcher = make_matcher(own if images is None else images, views, halves, 95.0, CFG)
    return matcher, places_of(particles, views.micrograph)


def noise_images(case: Case, halves: tuple[int, ...] = (1, 2)) -> ImageSet:
    """The set with noise in place of the images of some halves."""
    own = image_set(load_particles(case.star), CPU)
    random = torch.Generator().manual_seed(3)
    grain = torch.randn(len(own), own.box, own.box, generator=random)
    fake = torch.isin(own.half, torch.tensor(halves))
    return replace(own, read=lambda rows: torch.where(fake[rows, None, None], grain[rows], own.read(rows)))


def run(matcher: Matcher, place: torch.Tensor, cfg: ReconstructCtf) -> CtfFit:
    return CtfRefinement(matcher, place, cfg).run()


def test_noise_against_a_good_map_changes_nothing(case: Case) -> None:
    matcher, place = parts(case, noise_images(case))
    fit = run(matcher, place, CFG)
    assert fit.level == "none"
    assert not fit.changed
    assert not any(tilt.applied for tilt in fit.tilts)


def test_a_map_of_noise_is_no_reference(case: Case, tmp_path: Path) -> None:
    reconstruct(case.star, tmp_path / "noise", noise_images(case))
    ctf(case.star, tmp_path / "noise", tmp_path / "out", cfg=CFG, run=RUN)
    given, found = read_star(case.star), read_star(tmp_path / "out" / "particles.star")
    assert found["particles"]["rlnDefocusU"].tolist() == given["particles"]["rlnDefocusU"].tolist()
    assert "rlnBeamTiltX" not in found["optics"]
    verdicts = json.loads((tmp_path / "out" / "verdicts.json").read_text())
    assert verdicts[0]["verdict"] == "fail"
    assert "Nothing was changed" in verdicts[0]["evidence"]


def test_one_half_knows_nothing_of_the_others_images(case: Case) -> None:
    cfg = CFG.model_copy(update={"beam_tilt": False, "astigmatism": "none"})
    fits = [run(*parts(case, images), cfg) for images in (None, noise_images(case, (2,)))]
    first = parts(case)[0].images.rows(1)
    assert torch.equal(fits[0].offset[first], fits[1].offset[first])


def test_an_images_own_noise_in_its_half_map_does_not_count(case: Case) -> None:
    """Half maps of pure noise agree with their own images; the expected share is taken off to a few per cent."""
    images = noise_images(case)
    particles = load_particles(case.star)
    views = views_of(particles, images)
    plane = images.plane(images.box / 2)
    rows = images.rows(1)
    noise = noise_spectra(images, rows, plane)
    volume = accumulate(
        images, rows, views.rotations[rows], views.shifts_px[rows], noise, plane, "C1"
    ).solve()
    mask = soft_sphere(64, 20, 4)
    matcher = Matcher(images, views, geometry_of(images, 24, 40.0))
    matcher.prepare(1, volume * mask, torch.ones(25), float(mask.mean()), "C1")
    totals = []
    for own in (True, False):
        if not own:
            reference = matcher.references[1]
            matcher.references[1] = replace(reference, own=0 * reference.own)
        total = 0.0
        for group, part in matcher.chunks(1):
            match = matcher.match(1, group, part, Changes.none(len(images), 1))
            total += float((-torch.sin(match.phase) * match.product[:, 0]).sum())
        totals.append(total)
    assert totals[1] > 500
    assert abs(totals[0]) < 0.1 * totals[1]


def test_the_grid_is_exact_with_astigmatism(case: Case) -> None:
    """Sums over squared radii give what each offset's CTF gives when it is computed for every pixel."""
    matcher, _ = parts(case)
    group, part = next(matcher.chunks(1))
    part = part[:5]
    match = matcher.match(1, group, part, Changes.none(len(matcher.images), 1))
    grid = Grid.build(matcher.geometry, 300.0, 1500.0)
    curves = evaluate(match, grid, 300.0)
    for place in (0, len(grid.offset_angstrom) // 3, -1):
        optics = matcher.views.ctf[0][part]
        offset = grid.offset_angstrom[place] * 1e-4
        moved = replace(
            optics, defocus_u_um=optics.defocus_u_um + offset, defocus_v_um=optics.defocus_v_um + offset
        )
        values = ctf_values(moved, matcher.geometry.fy, matcher.geometry.fx)
        overlap, energy = (values * match.product[:, 0]).sum(1), (values**2 * match.power).sum(1)
        assert torch.allclose(curves.overlap[:, :, place].sum(1), overlap, atol=1e-3 * float(energy.max()))
        assert torch.allclose(curves.energy[:, :, place].sum(1), energy, rtol=2e-3)


def test_without_spherical_aberration_there_is_no_tilt(case: Case, tmp_path: Path) -> None:
    tables = read_star(case.star)
    write_star(
        tmp_path / "given.star",
        {**tables, "optics": tables["optics"].assign(rlnSphericalAberration="0.0")},
    )
    particles = load_particles(case.folder / "given.star")
    particles = replace(particles, optics=read_star(tmp_path / "given.star")["optics"])
    images = image_set(particles, CPU)
    halves, _ = read_halves(case.folder / "refined")
    views: Views = views_of(particles, images)
    matcher = make_matcher(images, views, halves, 95.0, CFG)
    fit = run(matcher, places_of(particles, views.micrograph), CFG)
    assert fit.tilts == []
    assert not bool(fit.changes.tilt_mrad.any())


def test_a_population_is_found_with_its_tilted_ice() -> None:
    """Particles about a plane over each micrograph: widths and plane come out, weak images lean on the others."""
    random = torch.Generator().manual_seed(1)
    count, each = 30, 60
    micrograph = torch.arange(count).repeat_interleave(each)
    place = torch.randn(count * each, 2, generator=random)
    slope = 200 * torch.randn(count, 2, generator=random)
    true = (slope[micrograph] * place).sum(1) + 100 * torch.randn(count * each, generator=random)
    error = 300.0
    seen = true + error * torch.randn(count * each, generator=random)
    offsets = torch.arange(-2000.0, 2001.0, 50.0)
    likelihood = -0.5 * ((offsets - seen[:, None]) / error) ** 2
    found = fit_population(likelihood, offsets, micrograph, place)
    assert found.spread == pytest.approx(100, rel=0.35)
    assert found.spread_of_slopes == pytest.approx(200, rel=0.25)
    rms = float((found.mean - true).square().mean().sqrt())
    assert rms < 130
    assert float((found.mean - true).square().div(found.deviation**2).mean()) == pytest.approx(1, abs=0.35)
    nothing = fit_population(torch.zeros(count * each, len(offsets)), offsets, micrograph, place)
    assert float(nothing.mean.abs().max()) < 1


def test_half_maps_of_other_particles_are_refused(case: Case, tmp_path: Path) -> None:
    for name in ("half1.mrc", "half2.mrc"):
        write_mrc(tmp_path / name, np.zeros((48, 48, 48), np.float32), 2.2)
    with pytest.raises(EmflowError, match="48 px"):
        ctf(case.star, tmp_path, tmp_path / "out", cfg=CFG, run=RUN)

"""The commands that ask the images: files in, files out, what they refuse, and the noise control."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emflow.device import generator
from emflow.em.masks import lowpass, soft_sphere
from emflow.io.mrc import CONTROL_LABEL, RESTORED_LABEL, UNRESTORED_LABEL, read_header, read_mrc, write_mrc
from emflow.io.particle_images import image_set, poses_of
from emflow.io.particles import load_particles
from emflow.io.star import floats, read_star, read_table, write_star
from emflow.reconstruct.command import refine
from emflow.reconstruct.config import ReconstructRefine
from emflow.simulate.command import particles as simulate
from emflow.simulate.config import SimulateParticles
from emflow.step import EmflowError
from emflow.validate.command import maps, noise_compare, noise_control, particles
from emflow.validate.config import NoiseCompare, NoiseControl, ValidateParticles
from emflow.validate.noise_control import Control, compare_control, judge_control, substitute_noise
from emflow.validate.subsets import Posed, accumulate_quarters

BOX = 32


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 simulated particles with true poses, a fifth of them replaced by noise, and the half maps they make."""
    folder = tmp_path_factory.mktemp("images")
    cfg = SimulateParticles(
        n_particles=400,
        box_px=BOX,
        snr=0.5,
        diameter_angstrom=200,
        particles_per_micrograph=20,
        seed=3,
        n_angles=0,
        n_state_volumes=1,
    )
    simulate(folder, cfg=cfg)
    pixels = read_mrc(folder / "particles.mrcs")
    pixels[::5] = torch.randn(80, BOX, BOX, generator=generator(1)).numpy()
    source = load_particles(folder / "particles.star")
    voxel = source.common_facts().pixel_size_angstrom
    write_mrc(folder / "particles.mrcs", pixels, voxel)
    posed = Posed(image_set(source, torch.device("cpu")), *poses_of(source, voxel), "C1")
    quarters = accumulate_quarters(posed, BOX // 2 - 1, 0, lambda count, one, two: None)
    for half in (1, 2):
        write_mrc(folder / f"half{half}.mrc", quarters.whole(half).numpy(), voxel, labels=(UNRESTORED_LABEL,))
    write_mrc(folder / "mask.mrc", soft_sphere(BOX, 11, 4).numpy(), voxel)
    return folder


def ask(project: Path, out: Path, star: str = "particles.star") -> dict[str, str]:
    particles(project / star, project / "half1.mrc", project / "half2.mrc", out, mask=project / "mask.mrc")
    return {row["question"]: row["verdict"] for row in json.loads((out / "verdicts.json").read_text())}


def test_the_command_lists_the_noise_among_the_particles(project: Path, tmp_path: Path) -> None:
    answers = ask(project, tmp_path)
    assert answers["Do the images agree with a map that they did not make?"] == "pass"
    assert answers["Do these particles make these half maps?"] == "pass"
    assert answers["Does every image show the particle?"] == "warn"
    given = read_table(project / "particles.star", "particles")
    listed = read_table(tmp_path / "outliers.star", "particles")
    junk = set(given["emflowParticleId"].iloc[::5])
    found = set(listed["emflowParticleId"])
    assert len(found & junk) >= 76
    assert len(found - junk) <= 3
    assert (listed["emflowReason"] == "matches the map no better than noise").mean() > 0.9
    deviation = floats(listed, "emflowMapDeviation")
    assert (np.diff(deviation) >= 0).all(), "the worst first"
    whole = read_table(tmp_path / "particles.star", "particles")
    same = given.columns.drop("rlnImageName")
    assert whole[same].equals(given[same]), "what was given stays as it was"
    assert load_particles(tmp_path / "particles.star").stacks == (project / "particles.mrcs",)
    assert floats(whole, "emflowMapAgreement")[::5].mean() < 1
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["effective_particles"] == pytest.approx(320, rel=0.06)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "agreement.png",
        "scores.png",
        "number.png",
    }
    again = ask(project, tmp_path / "again")
    assert again == answers
    assert (tmp_path / "again" / "particles.star").read_bytes() == (tmp_path / "particles.star").read_bytes()


def test_few_particles_are_not_asked(project: Path, tmp_path: Path) -> None:
    tables = read_star(project / "particles.star")
    for rows in (0, 40):
        write_star(project / "few.star", tables | {"particles": tables["particles"].iloc[:rows]})
        answers = ask(project, tmp_path, "few.star")
        assert set(answers.values()) == {"unknown"}
        assert len(read_table(tmp_path / "particles.star", "particles")) == rows
    assert not list((tmp_path / "figures").glob("*.png"))


def test_what_cannot_tell_is_refused(project: Path, tmp_path: Path) -> None:
    tables = read_star(project / "particles.star")
    table = tables["particles"]
    for name, changed, words in (
        ("poses", table.drop(columns="rlnAngleTilt"), "_rlnAngleTilt; expected particles with poses"),
        ("halves", table.assign(rlnRandomSubset="3"), "too few"),
        ("restored", table.assign(emflowRestored="1"), "restored particles"),
        ("control", table.assign(emflowNoiseControl="20"), "noise control"),
    ):
        write_star(project / f"{name}.star", tables | {"particles": changed})
        if words == "too few":
            assert set(ask(project, tmp_path, f"{name}.star").values()) == {"unknown"}
            continue
        with pytest.raises(EmflowError, match=words):
            ask(project, tmp_path, f"{name}.star")
    voxel = read_header(project / "half1.mrc").voxel_size_angstrom
    for half in (1, 2):
        write_mrc(tmp_path / f"half{half}.mrc", read_mrc(project / f"half{half}.mrc"), 1.5 * voxel)
    with pytest.raises(EmflowError, match="refined from"):
        particles(
            project / "particles.star", tmp_path / "half1.mrc", tmp_path / "half2.mrc", tmp_path / "out"
        )
    marked = read_mrc(project / "half1.mrc")
    write_mrc(tmp_path / "half1.mrc", marked, voxel, labels=(RESTORED_LABEL,))
    with pytest.raises(EmflowError, match="denoised"):
        particles(project / "particles.star", tmp_path / "half1.mrc", project / "half2.mrc", tmp_path / "out")


def test_substituted_noise_keeps_amplitudes_and_the_coarse_phases() -> None:
    random = generator(2)
    images = torch.randn(6, BOX, BOX, generator=random) + 3 * soft_sphere(BOX, 8, 3, 2)
    changed = substitute_noise(images, 6, generator(5))
    before, after = torch.fft.fft2(images), torch.fft.fft2(changed)
    assert torch.allclose(before.abs(), after.abs(), atol=2e-3)
    index = torch.fft.fftfreq(BOX, 1 / BOX)
    radius = (index[:, None] ** 2 + index**2).sqrt()
    coarse = radius < 6
    assert torch.allclose(before[:, coarse], after[:, coarse], atol=2e-3)
    cross = (before.conj() * after)[:, ~coarse].real.sum() / (before.abs() ** 2)[:, ~coarse].sum()
    assert abs(float(cross)) < 0.05
    assert torch.equal(changed, substitute_noise(images, 6, generator(5)))


def control_of(unmasked: float) -> Control:
    """A control whose half maps correlate so much beyond shell 5."""
    volumes = [torch.randn(BOX, BOX, BOX, generator=generator(9, k)) for k in (1, 2)]
    mask = soft_sphere(BOX, 11, 4)
    made = compare_control(
        (volumes[0], volumes[1]), (volumes[0], volumes[1]), mask, 3.0, BOX * 3.0 / 5, NoiseCompare()
    )
    flat = torch.full_like(made.control.unmasked, unmasked)
    return replace(made, control=replace(made.control, unmasked=flat))


def test_the_verdict_on_a_control() -> None:
    assert judge_control(control_of(0.0)).verdict == "pass"
    assert judge_control(control_of(0.1)).verdict == "warn"
    assert judge_control(control_of(0.3)).verdict == "fail"


def test_a_control_whose_halves_share_noise_is_caught() -> None:
    """Half maps of noise that both took from one reference."""
    common, one, two, detail = (torch.randn(BOX, BOX, BOX, generator=generator(7, k)) for k in range(4))
    mask = soft_sphere(BOX, 11, 4)
    halves = (detail + 0.5 * one, detail + 0.5 * two)
    for share, answer in ((0.0, "pass"), (1.0, "fail")):
        noise = (share * common + one, share * common + two)
        found = compare_control(halves, noise, mask, 3.0, BOX * 3.0 / 5, NoiseCompare())
        assert judge_control(found).verdict == answer
        assert (found.true[8:].mean() > 0.6) == (answer == "pass"), "what the control shares is taken off"


def test_the_noise_control_runs_through_refinement_and_is_marked(project: Path, tmp_path: Path) -> None:
    """From the particles to the verdict; whatever comes of the control is refused as data."""
    stack = tmp_path / "stack"
    with pytest.raises(EmflowError, match="from-angstrom"):
        noise_control(project / "particles.star", stack)
    noise_control(project / "particles.star", stack, cfg=NoiseControl(from_angstrom=60))
    assert read_header(stack / "particles.mrcs").labels == (CONTROL_LABEL,)
    assert not read_header(stack / "particles.mrcs").restored
    written = (stack / "particles.mrcs").read_bytes()
    noise_control(project / "particles.star", stack, cfg=NoiseControl(from_angstrom=60))
    assert (stack / "particles.mrcs").read_bytes() == written
    voxel = read_header(project / "half1.mrc").voxel_size_angstrom
    for half in (1, 2):
        coarse = lowpass(torch.from_numpy(read_mrc(project / f"half{half}.mrc")), voxel, 60.0)
        write_mrc(tmp_path / f"half{half}.mrc", coarse.numpy(), voxel)
    tables = read_star(stack / "particles.star")
    write_star(stack / "particles.star", tables | {"particles": tables["particles"].iloc[:160]})
    brief = ReconstructRefine(diameter_angstrom=200, global_iterations=1, max_iterations=1)
    refine(stack / "particles.star", tmp_path, tmp_path / "control", cfg=brief)
    assert read_header(tmp_path / "control" / "half1.mrc").control
    assert read_header(tmp_path / "control" / "map.mrc").control
    assert not read_header(tmp_path / "control" / "half1.mrc").unrestored
    assert read_header(project / "half1.mrc").unrestored
    verdicts = json.loads((tmp_path / "control" / "verdicts.json").read_text())
    assert any("noise control" in row["evidence"] for row in verdicts)
    pair = [tmp_path / "control" / f"half{half}.mrc" for half in (1, 2)]
    with pytest.raises(EmflowError, match="noise control"):
        maps(*pair, tmp_path / "no")
    with pytest.raises(EmflowError, match="noise control"):
        particles(tmp_path / "control" / "particles.star", *pair, tmp_path / "no", cfg=ValidateParticles())
    noise_compare(
        project, tmp_path / "control", tmp_path / "out", cfg=NoiseCompare(), mask=project / "mask.mrc"
    )
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["noise_control_from_angstrom"] == pytest.approx(60, rel=0.1)
    (row,) = json.loads((tmp_path / "out" / "verdicts.json").read_text())
    assert row["verdict"] == "pass"
    with pytest.raises(EmflowError, match="no mark of a noise control"):
        noise_compare(project, project, tmp_path / "out")

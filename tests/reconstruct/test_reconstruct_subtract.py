"""Subtraction and symmetry expansion against exact truth, by files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from emflow.em.masks import cosine_edge
from emflow.em.optics import Ctf, ctf_values, rfft_frequencies
from emflow.em.poses import matrix_to_euler, quaternion_to_matrix
from emflow.em.wiener import Accumulator
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.particle_images import image_set, poses_of
from emflow.io.particles import load_particles
from emflow.io.star import read_star, write_star
from emflow.reconstruct.command import expand, subtract
from emflow.reconstruct.config import ReconstructExpand, ReconstructSubtract
from emflow.reconstruct.merge import accumulate
from emflow.step import EmflowError, Run

RUN = Run(threads=1, device="cpu")
BOX, PIXEL, WIDTH = 48, 4.0, 1.6
BODY = torch.tensor([[-6.0, 3, 1], [-4, -5, 2], [-7, -2, -4], [-5, 2, 5]])
ARM = torch.tensor([[10.0, 1, 2], [11, 3, -1], [12, 0, 1]])


def density(atoms: Tensor) -> Tensor:
    """Gaussians at atoms (x, y, z), (n, n, n)."""
    line = (torch.arange(BOX) - BOX // 2).float()
    x, y, z = (torch.exp(-((line - atoms[:, i : i + 1]) ** 2) / (2 * WIDTH**2)) for i in range(3))
    return torch.einsum("az,ay,ax->zyx", z, y, x)


def projections(atoms: Tensor, rotations: Tensor, origins: Tensor, ctf: Ctf) -> Tensor:
    """Their exact projections: analytic in real space, the CTF by FFT."""
    line = (torch.arange(BOX) - BOX // 2).float()
    places = (
        atoms @ rotations.transpose(1, 2) - torch.cat([origins, torch.zeros(len(origins), 1)], 1)[:, None]
    )
    x, y = (torch.exp(-((line - places[:, :, i, None]) ** 2) / (2 * WIDTH**2)) for i in range(2))
    images = torch.einsum("bay,bax->byx", y, x) * (WIDTH * (2 * np.pi) ** 0.5)
    fy, fx = rfft_frequencies((BOX, BOX), PIXEL)
    return torch.fft.irfft2(torch.fft.rfft2(images) * ctf_values(ctf, fy, fx), s=(BOX, BOX))


def write_set(folder: Path, images: Tensor, rotations: Tensor, origins: Tensor, ctf: Ctf) -> Path:
    """Particles with poses, half-sets by micrograph and a column that nobody knows."""
    angles = matrix_to_euler(rotations.double())
    count = len(images)
    columns = {
        "rlnImageName": [f"{i + 1:06d}@particles.mrcs" for i in range(count)],
        "rlnMicrographName": [f"m{i // 4}.mrc" for i in range(count)],
        "rlnCoordinateX": list(range(count)),
        "rlnCoordinateY": [0] * count,
        "rlnDefocusU": (ctf.defocus_u_um * 1e4).tolist(),
        "rlnDefocusV": (ctf.defocus_v_um * 1e4).tolist(),
        "rlnDefocusAngle": [0.0] * count,
        "rlnOpticsGroup": ["1"] * count,
        "rlnRandomSubset": [str(i // 4 % 2 + 1) for i in range(count)],
        "emflowOdd": ["0012"] * count,
    }
    columns |= {f"rlnAngle{n}": angles[:, i].tolist() for i, n in enumerate(("Rot", "Tilt", "Psi"))}
    columns |= {f"rlnOrigin{n}Angst": (origins[:, i] * PIXEL).tolist() for i, n in enumerate("XY")}
    facts = {
        "rlnOpticsGroup": "1", "rlnImagePixelSize": PIXEL, "rlnImageSize": BOX, "rlnVoltage": 300,
        "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.07,
    }  # fmt: skip
    write_mrc(folder / "particles.mrcs", images.numpy(), PIXEL)
    star = folder / "particles.star"
    tables = {
        "optics": pd.DataFrame([facts]).astype(object),
        "particles": pd.DataFrame(columns).astype(object),
    }
    write_star(star, tables)
    return star


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor, Ctf]:
    """Noise-free images of a body and an arm, their half maps, and the mask of the arm."""
    folder = tmp_path_factory.mktemp("known")
    random = torch.Generator().manual_seed(7)
    q = torch.randn(40, 4, generator=random)
    rotations = quaternion_to_matrix(q / q.norm(dim=1, keepdim=True))
    origins = torch.randn(40, 2, generator=random)
    defocus = torch.linspace(0.6, 1.4, 40)
    ctf = Ctf(defocus, defocus, torch.zeros(40))
    both = torch.cat([BODY, ARM])
    star = write_set(folder, projections(both, rotations, origins, ctf), rotations, origins, ctf)
    for name in ("half1", "half2"):
        write_mrc(folder / f"{name}.mrc", density(both).numpy(), PIXEL)
    line = (torch.arange(BOX) - BOX // 2).float()
    cut = cosine_edge(4.5 - line, 3.0).expand(BOX, BOX, BOX)
    write_mrc(folder / "mask.mrc", cut.numpy(), PIXEL)
    inner = density(both) * cut
    write_mrc(folder / "inner.mrc", inner.numpy(), PIXEL)
    return star, origins, ctf


def test_what_is_left_is_the_masked_part(known: tuple, tmp_path: Path) -> None:
    """Analytic projections less the subtracted ones are the arm's: to a thousandth of the signal's power."""
    star, _, ctf = known
    cfg = ReconstructSubtract(recenter=False)
    subtract(star, star.parent, star.parent / "mask.mrc", tmp_path, cfg=cfg, run=RUN)
    before, after = read_star(star)["particles"], read_star(tmp_path / "particles.star")["particles"]
    for name in before:
        if name != "rlnImageName":
            assert before[name].tolist() == after[name].tolist(), name
    source = load_particles(star)
    rotations, shifts = poses_of(source, PIXEL)
    # the mask passes between body and arm: what it keeps is the arm
    arm = projections(ARM, rotations, shifts, ctf)
    left = torch.from_numpy(read_mrc(tmp_path / "particles.mrcs"))
    whole = torch.from_numpy(read_mrc(star.parent / "particles.mrcs"))
    body = projections(BODY, rotations, shifts, ctf)
    error = float((left - arm).square().mean() / body.square().mean())
    assert float((whole - arm).square().mean() / body.square().mean()) == pytest.approx(1, abs=0.01)
    assert error < 1e-3


def test_the_contrast_is_fitted(known: tuple, tmp_path: Path) -> None:
    star, _, _ = known
    images = read_mrc(star.parent / "particles.mrcs").copy()
    factor = np.where(np.arange(40) % 2, 1.5, 0.5).astype(np.float32)
    for name in ("half1.mrc", "half2.mrc", "mask.mrc", "particles.star"):
        (tmp_path / name).write_bytes((star.parent / name).read_bytes())
    write_mrc(tmp_path / "particles.mrcs", images * factor[:, None, None], PIXEL)
    cfg = ReconstructSubtract(scale="image")
    subtract(tmp_path / "particles.star", tmp_path, tmp_path / "mask.mrc", tmp_path / "out", cfg=cfg, run=RUN)
    found = read_star(tmp_path / "out" / "particles.star")["particles"]["emflowContrast"].astype(float)
    assert np.allclose(found, factor, rtol=0.01)


def test_new_boxes_are_centred_on_the_mask(known: tuple, tmp_path: Path) -> None:
    """The arm, reconstructed from the new small boxes, stands where its mask's centre says."""
    star, _, _ = known
    cfg = ReconstructSubtract(box_px=24)
    subtract(star, star.parent, star.parent / "mask.mrc", tmp_path, cfg=cfg, run=RUN)
    small = load_particles(tmp_path / "particles.star")
    assert small.common_facts().box_px == 24
    images = image_set(small, torch.device("cpu"))
    rotations, shifts = poses_of(small, PIXEL)
    assert shifts.abs().max() <= 0.5 + 1e-4
    plane = images.plane(11)
    sums: Accumulator = accumulate(
        images, torch.arange(40), rotations, shifts, torch.ones(1, 13), plane, "C1"
    )
    volume = sums.solve()
    mask = torch.from_numpy(read_mrc(star.parent / "mask.mrc"))
    line = (torch.arange(BOX) - BOX // 2).float()
    middle = torch.stack([(mask.sum(a) * line).sum() / mask.sum() for a in ((0, 1), (0, 2), (1, 2))])
    at = torch.nonzero(volume == volume.max())[0].flip(0) - 12
    expected = ARM - middle
    assert (expected - at).norm(dim=1).min() < 2.5


def test_each_half_is_subtracted_by_its_own_map(known: tuple, tmp_path: Path) -> None:
    star, _, _ = known
    write_mrc(tmp_path / "half1.mrc", read_mrc(star.parent / "half1.mrc"), PIXEL)
    write_mrc(tmp_path / "half2.mrc", 2 * read_mrc(star.parent / "half2.mrc"), PIXEL)
    out = tmp_path / "out"
    cfg = ReconstructSubtract(recenter=False, scale="set")
    subtract(star, tmp_path, star.parent / "mask.mrc", out, cfg=cfg, run=RUN)
    table = read_star(out / "particles.star")["particles"]
    contrast = table["emflowContrast"].astype(float).to_numpy()
    half = table["rlnRandomSubset"].to_numpy()
    assert contrast[half == "1"] == pytest.approx(1, abs=0.02)
    assert contrast[half == "2"] == pytest.approx(0.5, abs=0.02)


def test_a_mask_that_is_none_is_refused(known: tuple, tmp_path: Path) -> None:
    star, _, _ = known
    write_mrc(tmp_path / "mask.mrc", 3 * read_mrc(star.parent / "mask.mrc"), PIXEL)
    with pytest.raises(EmflowError, match="0 to 1"):
        subtract(star, star.parent, tmp_path / "mask.mrc", tmp_path / "out", run=RUN)


@pytest.mark.parametrize("symmetry", ["C3", "D2", "O"])
def test_expanded_particles_give_the_symmetrised_map(known: tuple, tmp_path: Path, symmetry: str) -> None:
    star, _, _ = known
    expand(star, tmp_path / "expanded.star", cfg=ReconstructExpand(expand_symmetry=symmetry), run=RUN)
    maps = []
    for path, group in ((star, symmetry), (tmp_path / "expanded.star", "C1")):
        source = load_particles(path)
        images = image_set(source, torch.device("cpu"))
        rotations, shifts = poses_of(source, PIXEL)
        plane = images.plane(20)
        every = torch.arange(len(images))
        sums = accumulate(images, every, rotations, shifts, torch.ones(1, 25), plane, group)
        maps.append(sums.solve())
    assert torch.allclose(maps[0], maps[1], atol=2e-4 * float(maps[0].abs().max()))


def test_expansion_keeps_the_books(known: tuple, tmp_path: Path) -> None:
    star, _, _ = known
    expand(star, tmp_path, cfg=ReconstructExpand(expand_symmetry="D2"), run=RUN)
    before, after = read_star(star)["particles"], read_star(tmp_path / "particles.star")["particles"]
    assert len(after) == 4 * len(before)
    assert after["emflowParticleId"].is_unique
    for name in before:
        if "rlnAngle" not in str(name) and name not in ("rlnImageName", "emflowParticleId"):
            assert after[name].tolist() == np.repeat(before[name].to_numpy(), 4).tolist(), name
    crossing = after.groupby("emflowExpandedFrom")["rlnRandomSubset"].nunique()
    assert (crossing == 1).all()
    assert after["rlnAngleRot"].tolist()[::4] == before["rlnAngleRot"].tolist()
    with pytest.raises(EmflowError, match="expanded already"):
        expand(tmp_path / "particles.star", tmp_path / "again", run=RUN)


def test_half_sets_of_copies_without_any_follow_the_micrograph(
    tmp_path: Path, make_particles: Callable
) -> None:
    loose = make_particles(tmp_path, 60, 0.4, halves=False)
    tables = read_star(loose.star)
    for name in ("Rot", "Tilt", "Psi"):
        tables["particles"][f"rlnAngle{name}"] = "10.0"
    write_star(loose.star, tables)
    expand(loose.star, tmp_path / "out", cfg=ReconstructExpand(expand_symmetry="C2"), run=RUN)
    table = read_star(tmp_path / "out" / "particles.star")["particles"]
    assert (table.groupby("rlnMicrographName")["rlnRandomSubset"].nunique() == 1).all()
    assert set(table["rlnRandomSubset"]) == {"1", "2"}

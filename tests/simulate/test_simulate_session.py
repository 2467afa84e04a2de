"""A session: what is written is what the truth says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import pdist

from emflow.em.optics import Ctf, ctf_values, rfft_frequencies
from emflow.em.poses import euler_to_matrix
from emflow.io.mrc import read_mrc
from emflow.io.star import floats, read_table
from emflow.simulate.command import session
from emflow.simulate.config import SimulateSession
from emflow.simulate.project import Projector
from emflow.simulate.scene import add_images
from emflow.step import EmflowError

PIXEL = 5.0


def image(folder: Path, kind: str, number: int) -> np.ndarray:
    return read_mrc(folder / kind / f"sim_{number:05d}.mrc")


def truth_ctf(folder: Path, number: int) -> Ctf:
    row = read_table(folder / "truth" / "micrographs.star", "micrographs").iloc[[number - 1]]
    u, v, a = (torch.from_numpy(floats(row, f"rlnDefocus{c}")).float() for c in ("U", "V", "Angle"))
    return Ctf(u * 1e-4, v * 1e-4, a)


def test_halves_add_up_exactly(tiny_session: Path) -> None:
    for number in (1, 2, 3):
        total = image(tiny_session, "even", number) + image(tiny_session, "odd", number)
        assert (image(tiny_session, "micrographs", number) == total).all()


def test_same_settings_same_bytes_other_seed_other_bytes(
    tiny_session: Path, tiny_settings: SimulateSession, tmp_path: Path
) -> None:
    session(tmp_path / "again", cfg=tiny_settings)
    files = [p.relative_to(tiny_session) for p in sorted(tiny_session.rglob("*")) if p.is_file()]
    assert len(files) == 4 * 3 + 4
    assert all((tiny_session / f).read_bytes() == (tmp_path / "again" / f).read_bytes() for f in files)
    other = tiny_settings.model_copy(update={"seed": 1, "n_micrographs": 1, "n_noise_micrographs": 0})
    session(tmp_path / "other", cfg=other)
    assert (image(tmp_path / "other", "micrographs", 1) != image(tiny_session, "micrographs", 1)).any()


def test_noise_of_the_halves_is_independent(tiny_session: Path, tmp_path: Path) -> None:
    """The difference of the halves is camera noise alone: white, of the halves' own variance."""
    even, odd = image(tiny_session, "even", 3), image(tiny_session, "odd", 3)
    difference = even - odd
    assert np.std(difference) == pytest.approx(np.sqrt(even.mean() + odd.mean()), rel=0.02)  # counting
    power = np.abs(np.fft.rfft2(difference - difference.mean())) ** 2
    assert power[:40, :40].mean() == pytest.approx(power[120:160, 100:140].mean(), rel=0.15)


def test_clean_image_is_the_micrograph_without_its_noise(
    tiny_session: Path, tiny_settings: SimulateSession, tmp_path: Path
) -> None:
    """What is left after subtracting it is white, of the camera's variance, and knows no particle."""
    cfg = tiny_settings.model_copy(update={"keep_clean": True, "ice_noise": 0.0})
    session(tmp_path, cfg=cfg)
    clean, micrograph = image(tmp_path, "truth/clean", 1), image(tmp_path, "micrographs", 1)
    rest = micrograph - clean
    assert rest.var() == pytest.approx(clean.mean(), rel=0.03)  # counting
    assert abs(np.corrcoef(rest.ravel(), clean.ravel())[0, 1]) < 0.02
    smooth = gaussian_filter(rest, 3)
    assert smooth.std() == pytest.approx(rest.std() / (2 * np.sqrt(np.pi) * 3), rel=0.1)  # white
    assert not (tiny_session / "truth" / "clean").exists()


def test_particles_lie_where_the_truth_says(tiny_session: Path) -> None:
    """The micrograph's cross-correlation with each particle's own view peaks at its coordinate."""
    table = read_table(tiny_session / "truth" / "particles.star", "particles")
    table = table[table["rlnMicrographName"] == "micrographs/sim_00001.mrc"]
    assert len(table) > 15
    volume = torch.from_numpy(read_mrc(tiny_session / "truth" / "volume.mrc"))
    angles = np.stack([floats(table, f"rlnAngle{a}") for a in ("Rot", "Tilt", "Psi")], 1)
    xy = np.stack([floats(table, "rlnCoordinateX"), floats(table, "rlnCoordinateY")], 1)
    views = Projector(volume, PIXEL)(
        euler_to_matrix(torch.from_numpy(angles)).float(), torch.zeros(len(xy), 2)
    )
    micrograph = torch.from_numpy(image(tiny_session, "micrographs", 1))
    size, box = micrograph.shape[-1], views.shape[-1]
    h = -ctf_values(truth_ctf(tiny_session, 1), *rfft_frequencies((size, size), PIXEL))[0]  # protein dark
    offsets = []
    for view, (x, y) in zip(views, xy, strict=True):
        scene = torch.zeros(size, size)
        scene[:box, :box] = view
        scene = torch.roll(scene, (-(box // 2), -(box // 2)), (0, 1))
        template = torch.fft.rfft2(scene) * h
        cc = torch.fft.irfft2(
            torch.fft.rfft2(micrograph - micrograph.mean()) * template.conj(), s=(size, size)
        )
        cx, cy = round(x), round(y)
        part = cc[cy - 4 : cy + 5, cx - 4 : cx + 5]
        at = int(part.argmax())
        offsets.append([at % 9 - 4 + cx - x, at // 9 - 4 + cy - y])
    offsets_px = np.array(offsets)
    assert np.median(np.abs(offsets_px)) < 0.5
    assert np.abs(np.median(offsets_px, axis=0)).max() < 0.35  # no half-pixel bias
    assert (np.linalg.norm(offsets_px, axis=1) < 1.5).mean() > 0.9


def test_protein_is_dark(tiny_session: Path) -> None:
    table = read_table(tiny_session / "truth" / "particles.star", "particles")
    table = table[table["rlnMicrographName"] == "micrographs/sim_00001.mrc"]
    micrograph = image(tiny_session, "micrographs", 1)
    smooth = gaussian_filter(micrograph, 3) - gaussian_filter(micrograph, 20)
    x, y = (np.rint(floats(table, f"rlnCoordinate{a}")).astype(int) for a in "XY")
    assert smooth[y, x].mean() < smooth.mean() - 0.5 * smooth.std()


def test_particles_keep_their_distance_and_off_the_junk(
    tiny_session: Path, tiny_settings: SimulateSession
) -> None:
    facts = json.loads((tiny_session / "truth" / "facts.json").read_text())
    table = read_table(tiny_session / "truth" / "particles.star", "particles")
    diameter = facts["diameter_angstrom"] / PIXEL
    for name, part in table.groupby("rlnMicrographName"):
        xy = np.stack([floats(part, "rlnCoordinateX"), floats(part, "rlnCoordinateY")], 1)
        assert pdist(xy).min() >= tiny_settings.min_distance * diameter - 1e-3
        assert xy.min() >= 0.49 * diameter
        assert xy.max() <= 320 - 0.49 * diameter
        mask = read_mrc(tiny_session / "truth" / "masks" / Path(str(name)).name)
        at = np.rint(xy).astype(int)
        assert mask[at[:, 1], at[:, 0]].max() == 0
    assert facts["n_particles"] == len(table) > 40


def test_carbon_covers_part_of_one_micrograph(tiny_session: Path) -> None:
    table = read_table(tiny_session / "truth" / "micrographs.star", "micrographs")
    assert table["emflowCarbon"].tolist() == ["0", "1", "0"]
    mask = image(tiny_session, "truth/masks", 2) > 0.5
    assert 0.1 < mask.mean() < 0.6
    micrograph = image(tiny_session, "micrographs", 2)
    assert micrograph[mask].mean() < 0.95 * micrograph[~mask].mean()
    assert image(tiny_session, "truth/masks", 3).max() == 0  # ice alone
    assert "micrographs/sim_00003.mrc" not in set(
        read_table(tiny_session / "truth" / "particles.star", "particles")["rlnMicrographName"]
    )


def test_snr_is_measured_and_near_what_was_asked(tiny_session: Path, tmp_path: Path) -> None:
    assert json.loads((tiny_session / "truth" / "facts.json").read_text())["snr_in_box"] == pytest.approx(
        4.0, rel=0.25
    )


def test_thon_rings_vanish_at_the_zeros_of_the_ctf(tmp_path: Path, tiny_settings: SimulateSession) -> None:
    """Ice alone: the power falls to the camera's at the CTF's zeros, and stands above it at its maxima."""
    cfg = tiny_settings.model_copy(
        update={
            "n_micrographs": 0,
            "n_noise_micrographs": 1,
            "micrograph_size_px": 512,
            "ice_noise": 0.7,
            "astigmatism_max_um": 0.4,
            "envelope_b_factor_angstrom2": 0.0,
        }
    )
    session(tmp_path, cfg=cfg)
    micrograph = image(tmp_path, "micrographs", 1)
    window = np.hanning(512)[:, None] * np.hanning(512)
    flat = micrograph / gaussian_filter(micrograph, 40) - 1
    power = np.abs(np.fft.rfft2(flat * window)) ** 2
    fy, fx = rfft_frequencies((512, 512), PIXEL)
    ctf = ctf_values(truth_ctf(tmp_path, 1), fy, fx)[0].numpy() ** 2
    s = np.hypot(fy.numpy(), fx.numpy())
    band = (s > 0.03) & (s < 0.09)
    high, low = power[band & (ctf > 0.9)].mean(), power[band & (ctf < 0.02)].mean()
    # ice is white before the CTF, so power is camera + ice·ctf²; with an even CTF² of ½ the ratio is known
    expected = 1 + 0.95 * (0.7 / (ctf.mean())) / (0.3 + 0.01 * 0.7 / ctf.mean())
    assert high / low == pytest.approx(expected, rel=0.2)


def test_session_without_particles_is_whole(tmp_path: Path, tiny_settings: SimulateSession) -> None:
    cfg = tiny_settings.model_copy(update={"n_micrographs": 1, "n_noise_micrographs": 0,
                                           "particles_per_micrograph": 0, "n_carbon_micrographs": 0,
                                           "aggregates_per_micrograph": 0.0})  # fmt: skip
    session(tmp_path, cfg=cfg)
    table = read_table(tmp_path / "truth" / "particles.star", "particles", "rlnCoordinateX", "rlnAngleRot")
    facts = json.loads((tmp_path / "truth" / "facts.json").read_text())
    assert len(table) == facts["n_particles"] == 0
    assert facts["snr_in_box"] is None


def test_impossible_settings_are_refused(tmp_path: Path, tiny_settings: SimulateSession) -> None:
    with pytest.raises(EmflowError, match="no micrographs"):
        session(tmp_path, cfg=tiny_settings.model_copy(update={"n_micrographs": 0, "n_noise_micrographs": 0}))
    with pytest.raises(EmflowError, match="above defocus_max_um"):
        session(tmp_path, cfg=tiny_settings.model_copy(update={"defocus_min_um": 3.0}))
    with pytest.raises(EmflowError, match="too small"):
        session(
            tmp_path,
            cfg=tiny_settings.model_copy(update={"micrograph_size_px": 128, "pixel_size_angstrom": 1.2}),
        )
    with pytest.raises(EmflowError, match="no such model file"):
        session(tmp_path, cfg=tiny_settings.model_copy(update={"model": tmp_path / "none.pdb"}))


def test_specimen_from_a_file(tmp_path: Path, tiny_settings: SimulateSession) -> None:
    rng = np.random.default_rng(0)
    lines = [
        f"ATOM  {i + 1:5d}  CA  ALA A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C"
        for i, (x, y, z) in enumerate(rng.normal(0, 12, (200, 3)) + [40, 0, 0])
    ]
    (tmp_path / "model.pdb").write_text("\n".join([*lines, "END", ""]))
    cfg = tiny_settings.model_copy(
        update={
            "model": tmp_path / "model.pdb",
            "symmetry": "C3",
            "n_micrographs": 1,
            "n_noise_micrographs": 0,
        }
    )
    session(tmp_path / "out", cfg=cfg)
    facts = json.loads((tmp_path / "out" / "truth" / "facts.json").read_text())
    assert facts["symmetry"] == "C3"
    assert facts["specimen"] == "model.pdb"
    assert facts["mass_kda"] == pytest.approx(3 * 200 * 7.5 * 110 / 58 / 1e3, rel=0.01)


def test_what_sticks_out_of_the_canvas_is_cut() -> None:
    canvas, image = torch.zeros(10, 12), torch.arange(16.0).reshape(1, 4, 4) + 1
    corners = [(-2, -1), (10, 8), (4, 3), (30, 2), (2, -9), (-20, 0)]
    for corner in corners:
        add_images(canvas, image, torch.tensor([corner]))
    expected = torch.zeros(60, 60)
    for x, y in corners:
        expected[y + 20 : y + 24, x + 20 : x + 24] += image[0]
    assert torch.equal(canvas, expected[20:30, 20:32])

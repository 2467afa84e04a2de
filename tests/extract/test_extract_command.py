"""The extract commands on small files: what every particle keeps, what is refused, what flows through."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emflow.extract import command, outputs
from emflow.extract.config import ExtractJoin, ExtractRecenter, ExtractRun
from emflow.io.mrc import RESTORED_LABEL, write_mrc
from emflow.io.particles import load_particles, read_images
from emflow.io.star import floats, read_star, write_star
from emflow.step import EmflowError

CFG = ExtractRun(diameter_angstrom=40, binned_size_px=16)
FINE = ExtractRecenter(diameter_angstrom=40)
PLACES = [("a", 50.0, 60.0), ("a", 2.0, 60.0), ("b", 40.9, 70.2), ("a", 90.0, 33.0), ("c", 64.0, 64.0)]
"""Micrograph, x, y: the second is at the edge, micrograph c is rejected."""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three micrographs with a dark spot at each place; tables as the session, CTF and picking steps write them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    yy, xx = np.mgrid[:130, :120]
    for name in "abc":
        image = rng.normal(100, 0.3, size=(130, 120))
        for micrograph, x, y in PLACES:
            if micrograph == name:
                image -= 20 * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 18)
        write_mrc(f"{name}.mrc", image.astype(np.float32), 2.0)
    tables()
    return tmp_path


def tables(**columns: list[str]) -> None:
    micrographs = pd.DataFrame(
        {
            "rlnMicrographName": [f"{n}.mrc" for n in "abc"],
            "rlnOpticsGroup": "1",
            "emflowMicrographId": ["id-a", "id-b", "id-c"],
            "rlnRandomSubset": ["1", "2", "1"],
            "emflowContrast": "dark",
            "rlnDefocusU": ["10000.50", "2e4", "3e4"],
            "rlnDefocusV": ["9000", "2e4", "3e4"],
            "rlnDefocusAngle": ["0012", "0", "0"],
            "rlnPhaseShift": "0",
            **columns,
        },
        dtype=object,
    )
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": ["1"],
            "rlnOpticsGroupName": ["g"],
            "rlnMicrographPixelSize": ["2.0"],
            "rlnVoltage": ["300"],
            "rlnSphericalAberration": ["2.7"],
            "rlnAmplitudeContrast": ["0.07"],
        }
    )
    picks = pd.DataFrame(
        {
            "rlnMicrographName": [f"{p[0]}.mrc" for p in PLACES],
            "rlnCoordinateX": [str(p[1]) for p in PLACES],
            "rlnCoordinateY": [str(p[2]) for p in PLACES],
            "rlnAutopickFigureOfMerit": [f"0.{i}10" for i in range(5)],
            "emflowMicrographId": [f"id-{p[0]}" for p in PLACES],
            "emflowParticleId": [f"p{i}" for i in range(5)],
        },
        dtype=object,
    )
    write_star("ctf.star", {"optics": optics, "micrographs": micrographs})
    accepted = micrographs.assign(emflowAccepted=["1", "1", "0"])
    write_star("select.star", {"optics": optics, "micrographs": accepted})
    write_star("picks.star", {"particles": picks})


def spot(image: np.ndarray) -> np.ndarray:
    """Where the bright spot is: offset (y, x) of its centre of mass from n//2, in pixels."""
    weight = np.where(image > 0.3 * image.max(), image, 0)
    axis = np.arange(len(image)) - len(image) // 2
    return np.array([(weight.sum(1) * axis).sum(), (weight.sum(0) * axis).sum()]) / weight.sum()


def run(out: str = "extract/shard_00001.star", cfg: ExtractRun = CFG) -> dict[str, pd.DataFrame]:
    command.run(Path("select.star"), Path("ctf.star"), Path("picks.star"), Path(out), cfg=cfg)
    return read_star(out)


def test_particles_keep_what_is_known_of_them() -> None:
    out = run()
    table = out["particles"]
    assert table["emflowParticleId"].tolist() == ["p0", "p3", "p2"]  # by micrograph
    assert table["rlnCoordinateX"].tolist() == ["50", "90", "40"]  # where the window is
    assert table["rlnCoordinateY"].tolist() == ["60", "33", "70"]
    assert table["rlnDefocusU"].tolist() == ["10000.50", "10000.50", "2e4"]
    assert table["rlnDefocusAngle"].tolist() == ["0012", "0012", "0"]
    assert table["rlnRandomSubset"].tolist() == ["1", "1", "2"]
    assert table["rlnAutopickFigureOfMerit"].tolist() == ["0.010", "0.310", "0.210"]
    assert table["rlnImageName"].tolist()[0] == "000001@extract/shard_00001.mrcs"
    assert table["rlnPhaseShift"].tolist() == ["0"] * 3
    counts = out["micrographs"].set_index("emflowMicrographId")
    assert counts["emflowExtracted"].to_dict() == {"id-a": "2", "id-b": "1"}
    assert counts["emflowDroppedOutside"].to_dict() == {"id-a": "1", "id-b": "0"}
    particles = load_particles("extract/shard_00001.star")
    facts = particles.common_facts()
    assert (facts.box_px, facts.pixel_size_angstrom) == (16, 4.0)
    images = read_images(particles)
    assert images.shape == (3, 16, 16)
    for image, fraction in zip(images, (0.0, 0.0, 0.9), strict=True):  # protein bright, in the middle
        np.testing.assert_allclose(spot(image), [0.2 * bool(fraction) / 2, fraction / 2], atol=0.1)


def test_plain_files_need_no_project(project: Path) -> None:
    """A RELION-like micrographs table without our columns, picks matched by base name."""
    table = read_star("ctf.star")["micrographs"]
    plain = table.drop(columns=["emflowMicrographId", "rlnRandomSubset", "emflowContrast"])
    write_star("plain.star", {"optics": read_star("ctf.star")["optics"], "micrographs": plain})
    picks = read_star("picks.star")["particles"].drop(columns=["emflowMicrographId", "emflowParticleId"])
    picks["rlnMicrographName"] = "elsewhere/" + picks["rlnMicrographName"]
    write_star("picks.star", {"": picks})
    command.run(Path("plain.star"), Path("plain.star"), Path("picks.star"), Path("out.star"), cfg=CFG)
    out = read_star("out.star")["particles"]
    assert len(out) == 4  # c is not rejected here
    assert out["rlnRandomSubset"].tolist() == ["1", "1", "2", "1"]  # alternating by micrograph
    assert out["emflowParticleId"].is_unique


def test_contrast_follows_the_setting_and_else_the_table() -> None:
    images = read_images(load_particles("extract/shard_00001.star")) if run() else None
    assert images is not None
    assert images[0, 8, 8] > 3
    tables(emflowContrast=["bright"] * 3)
    run("b.star")
    np.testing.assert_allclose(read_images(load_particles("b.star")), -images)
    run("c.star", CFG.model_copy(update={"contrast": "dark"}))
    np.testing.assert_allclose(read_images(load_particles("c.star")), images)


@pytest.mark.parametrize("by", ["column", "label"])
def test_restored_pixels_are_refused(by: str) -> None:
    if by == "column":
        tables(emflowRestored=["0", "1", "0"])
    else:
        write_mrc("b.mrc", np.random.default_rng(0).normal(size=(130, 120)), 2.0, labels=(RESTORED_LABEL,))
    with pytest.raises(EmflowError, match="b.mrc: its pixels were denoised or otherwise restored"):
        run()
    assert not Path("extract/shard_00001.star").exists()
    write_star("refined.star", {**read_star("ctf.star"), **read_star("picks.star")})
    with pytest.raises(EmflowError, match="restored"):
        command.recenter(Path("refined.star"), Path("ctf.star"), Path("fine.star"), cfg=FINE)


def test_unreadable_micrograph_is_set_aside() -> None:
    Path("a.mrc").write_bytes(b"broken")
    out = run()
    assert out["particles"]["emflowParticleId"].tolist() == ["p2"]
    assert out["set_aside"]["emflowMicrographId"].tolist() == ["id-a"]
    command.join(Path("extract/shard_00001.star"), Path("extract/particles.star"), cfg=ExtractJoin())
    last = json.loads(Path("extract/verdicts.json").read_text())[-1]
    assert (last["verdict"], "a.mrc" in last["evidence"]) == ("warn", True), "the report shows it"


def test_a_micrograph_on_which_the_process_died_twice_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(self: outputs.Shard, row: int) -> tuple[np.ndarray, dict]:
        if self.micrographs.name(row) == "a.mrc":
            raise MemoryError
        return cut(self, row)

    cut = outputs.Shard.cut
    monkeypatch.setattr(outputs.Shard, "cut", dies)
    for _ in range(2):
        with pytest.raises(MemoryError):
            run()
    assert run()["particles"]["emflowParticleId"].tolist() == ["p2"]
    monkeypatch.setattr(outputs.Shard, "cut", cut)
    assert "MemoryError" in run()["set_aside"]["emflowReason"].iloc[0], "it is not tried any more"
    Path("extract/.shard_00001.deaths").unlink()
    assert len(run()["particles"]) == 3, "until its deaths are forgotten"


def test_without_a_ctf_nothing_is_extracted() -> None:
    ctf = read_star("ctf.star")
    ctf["micrographs"] = ctf["micrographs"].drop(columns=["rlnDefocusU", "rlnDefocusV"])
    write_star("ctf.star", ctf)
    with pytest.raises(EmflowError, match="emflow ctf fit"):
        run()


def test_nothing_to_extract_flows_through_to_the_joined_table() -> None:
    picks = read_star("picks.star")["particles"]
    write_star("picks.star", {"particles": picks.iloc[:0]})
    out = run()
    assert len(out["particles"]) == 0
    assert Path("extract/shard_00001.mrcs").stat().st_size == 1024 + 4 * 16 * 16  # one image of zeros
    command.join(Path("extract/shard_00001.star"), Path("extract/particles.star"), cfg=ExtractJoin())
    particles = load_particles("extract/particles.star")
    assert len(particles) == 0
    assert particles.common_facts().box_px == 16
    assert json.loads(Path("extract/verdicts.json").read_text())[0]["verdict"] == "fail"
    command.recenter(Path("extract/particles.star"), Path("ctf.star"), Path("fine.star"), cfg=FINE)
    assert len(read_star("fine.star")["particles"]) == 0


def test_grown_shard_reads_new_micrographs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    first = Path("extract/shard_00001.mrcs").read_bytes()
    read: list[str] = []
    real = outputs.read_image
    monkeypatch.setattr(outputs, "read_image", lambda name: read.append(name) or real(name))
    write_star("select.star", read_star("ctf.star"))  # c is accepted now
    grown = run()
    assert read == ["c.mrc"]
    assert len(grown["particles"]) == 4
    assert Path("extract/shard_00001.mrcs").read_bytes()[1024:].startswith(first[1024:])
    run("fresh.star")
    assert Path("fresh.mrcs").read_bytes() == Path("extract/shard_00001.mrcs").read_bytes()
    read.clear()
    tables(rlnDefocusU=["1", "2", "3"])  # a new CTF changes the table, not the images
    changed = run()
    assert not read
    assert changed["particles"]["rlnDefocusU"].tolist() == ["1", "1", "2"]


def test_recentred_particles_sit_in_the_middle_and_keep_their_poses() -> None:
    """Boxes 3.5 px off in x and −2 px in y: the origins say so, and the new boxes are right on the spots."""
    picks = read_star("picks.star")["particles"]
    x, y = floats(picks, "rlnCoordinateX"), floats(picks, "rlnCoordinateY")
    picks["rlnCoordinateX"] = [str(int(v + 3)) for v in x]
    picks["rlnCoordinateY"] = [str(int(v - 2)) for v in y]
    write_star("picks.star", {"particles": picks})
    run()
    joined = read_star("extract/shard_00001.star")
    table = joined["particles"]
    true = {f"p{i}": (place[1], place[2]) for i, place in enumerate(PLACES)}
    where = np.array([true[i] for i in table["emflowParticleId"]])
    box = np.stack([floats(table, "rlnCoordinateX"), floats(table, "rlnCoordinateY")], -1)
    for column, axis in enumerate("XY"):  # the particle sits at −origin from its box's centre
        table[f"rlnOrigin{axis}Angst"] = [str(float(v)) for v in -(where - box)[:, column] * 2.0]
    table["rlnAngleRot"] = ["1e-9", "0012", "-170.123456789"]
    table["rlnDefocusU"] = ["11111", "22222", "33333"]  # refined per particle
    write_star("refined.star", joined)
    command.recenter(Path("refined.star"), Path("ctf.star"), Path("fine/shard_00001.star"), cfg=FINE)
    fine = read_star("fine/shard_00001.star")["particles"]
    assert fine["emflowParticleId"].tolist() == ["p0", "p3", "p2"]
    assert fine["rlnAngleRot"].tolist() == ["1e-9", "0012", "-170.123456789"]
    assert fine["rlnDefocusU"].tolist() == ["11111", "22222", "33333"]
    assert fine["rlnCoordinateX"].tolist() == ["50", "90", "41"]
    assert fine["rlnCoordinateY"].tolist() == ["60", "33", "70"]
    origin = np.stack([floats(fine, f"rlnOrigin{axis}Angst") for axis in "XY"], -1)
    centres = np.stack([floats(fine, f"rlnCoordinate{axis}") for axis in "XY"], -1)
    np.testing.assert_allclose(centres - origin / 2.0, where, atol=1e-5)
    images = read_images(load_particles("fine/shard_00001.star"))
    assert images.shape == (3, 32, 32)
    for image, place in zip(images, -origin / 2.0, strict=True):
        np.testing.assert_allclose(spot(image), place[::-1], atol=0.1)


def test_recentre_takes_only_its_shard() -> None:
    run()
    ctf = read_star("ctf.star")
    ctf["micrographs"] = ctf["micrographs"].iloc[1:2]
    write_star("ctf.star", ctf)
    command.recenter(Path("extract/shard_00001.star"), Path("ctf.star"), Path("fine.star"), cfg=FINE)
    assert read_star("fine.star")["particles"]["emflowParticleId"].tolist() == ["p2"]


def test_particles_of_micrographs_without_poses_are_cut_on_their_picks() -> None:
    write_star("select.star", read_star("ctf.star"))  # c is accepted
    run()
    joined = read_star("extract/shard_00001.star")
    first = joined["particles"][joined["particles"]["emflowMicrographId"] == "id-a"].iloc[:1]
    pose = {"rlnAngleRot": "10", "rlnAngleTilt": "20", "rlnOriginXAngst": "4", "rlnOriginYAngst": "0"}
    write_star("posed.star", {**joined, "particles": first.assign(**pose)})
    picked = Path("extract/shard_00001.star")
    command.recenter(
        Path("posed.star"), Path("ctf.star"), Path("fine/shard_00001.star"), picked=picked, cfg=FINE
    )
    fine = read_star("fine/shard_00001.star")["particles"]
    # p3 is of a micrograph that has poses, and not among them: it was removed
    assert fine["emflowParticleId"].tolist() == ["p0", "p2", "p4"]
    assert fine["emflowPoseKnown"].tolist() == ["1", "0", "0"]
    assert fine["rlnAngleTilt"].tolist() == ["20", "0", "0"]
    assert fine["rlnCoordinateX"].tolist() == ["48", "40", "64"]
    assert fine["rlnRandomSubset"].tolist() == ["1", "2", "1"]
    known = joined["particles"].assign(**pose)
    write_star("all.star", {**joined, "particles": known})
    command.recenter(
        Path("all.star"), Path("ctf.star"), Path("all/shard_00001.star"), picked=picked, cfg=FINE
    )
    assert "emflowPoseKnown" not in read_star("all/shard_00001.star")["particles"]


def test_join_leaves_out_what_was_removed_and_tells_new_particles_only_while_there_are_any() -> None:
    run()
    shard = read_star("extract/shard_00001.star")
    new = shard["particles"].assign(emflowParticleId=["n0", "n1", "n2"], emflowPoseKnown=["1", "0", "1"])
    write_star("extract/shard_00002.star", {**shard, "particles": new})
    paths = Path("extract/shard_00001.star"), Path("extract/shard_00002.star"), Path("extract/particles.star")
    command.join(*paths, cfg=ExtractJoin(diameter_angstrom=40))
    table = read_star(paths[-1])["particles"]
    assert table["emflowPoseKnown"].tolist() == ["1", "1", "1", "1", "0", "1"]
    write_star("removed.star", {"particles": new.iloc[1:]})
    command.join(*paths, removed=Path("removed.star"), cfg=ExtractJoin(diameter_angstrom=40))
    table = read_star(paths[-1])["particles"]
    assert table["emflowParticleId"].tolist() == ["p0", "p3", "p2", "n0"]
    assert "emflowPoseKnown" not in table


def test_what_lies_behind_an_excluded_micrograph_is_not_cut_again() -> None:
    """Their micrographs may be in the archive."""
    write_star("select.star", read_star("ctf.star"))
    whole = run()["particles"]
    images = read_images(load_particles("extract/shard_00001.star"))
    chosen = read_star("select.star")
    write_star("select.star", {**chosen, "micrographs": chosen["micrographs"].iloc[1:]})
    for name in "abc":
        Path(f"{name}.mrc").unlink()
    tables = run()
    assert tables["particles"]["emflowParticleId"].tolist() == ["p2", "p4"]
    assert not len(tables["set_aside"])
    left = images[whole["emflowMicrographId"].to_numpy() != "id-a"]
    np.testing.assert_array_equal(read_images(load_particles("extract/shard_00001.star")), left)


def test_join_pools_shards_of_accepted_micrographs() -> None:
    run()
    command.join(
        Path("extract/shard_00001.star"),
        Path("extract/particles.star"),
        quality=Path("select.star"),
        cfg=ExtractJoin(diameter_angstrom=40),
    )
    assert len(read_star("extract/particles.star")["particles"]) == 3
    metrics = json.loads(Path("extract/metrics.json").read_text())
    assert (metrics["particles"], metrics["dropped_outside"], metrics["box_px"]) == (3, 1, 16)
    select = read_star("select.star")
    select["micrographs"]["emflowAccepted"] = ["0", "1", "1"]
    write_star("select.star", select)
    command.join(Path("extract/shard_00001.star"), Path("out.star"), quality=Path("select.star"))
    assert read_star("out.star")["particles"]["emflowParticleId"].tolist() == ["p2"]
    with pytest.raises(EmflowError, match="last the table to write"):
        command.join(Path("only.star"))

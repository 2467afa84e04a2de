"""What spoils a session: structured ice, crystals, beads, broken particles, radiation damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis

from emflow.device import generator
from emflow.io.mrc import read_mrc
from emflow.io.star import floats, integers, read_table
from emflow.simulate.broken import DENATURED, HALF, break_particles
from emflow.simulate.command import session
from emflow.simulate.config import SimulateSession
from emflow.simulate.contamination import contaminate
from emflow.simulate.ice import frequency, ice_texture
from emflow.simulate.imaging import damage
from emflow.simulate.specimen import Atoms

PIXEL = 3.0


@pytest.mark.parametrize("kind", ["white", "fields", "grains"])
def test_ice_has_unit_deviation_and_is_seeded(kind: str) -> None:
    one, same, other = (ice_texture(kind, 256, PIXEL, generator(s)) for s in (1, 1, 2))
    assert float(one.std()) == pytest.approx(1.0, abs=0.02)
    assert float(one.mean()) == pytest.approx(0.0, abs=0.02)
    assert one.equal(same)
    assert abs(float((one * other).mean())) < 0.1


def test_the_two_kinds_of_structured_ice_differ_in_kind() -> None:
    """Fields are Gaussian where they are flat; grains are not. Both are coarser than white ice."""
    shape, rise = {}, {}
    s = frequency(256, PIXEL)
    for kind in ("white", "fields", "grains"):
        textures = [ice_texture(kind, 256, PIXEL, generator(seed)) for seed in range(4)]
        power = sum(torch.fft.rfft2(t).abs().square() for t in textures)
        rise[kind] = float(power[(s > 0.005) & (s < 0.02)].mean() / power[(s > 0.12) & (s < 0.16)].mean())
        shape[kind] = np.mean([kurtosis(t[:64, :64].flatten().numpy()) for t in textures])
    assert rise["white"] == pytest.approx(1.0, abs=0.3)
    assert rise["fields"] > 2
    assert rise["grains"] > 2
    assert abs(shape["white"]) < 0.3
    assert shape["fields"] < 0.8
    assert shape["grains"] > 1.5


def test_as_much_structured_ice_passes_the_ctf_as_white(
    tmp_path: Path, tiny_settings: SimulateSession
) -> None:
    """The SNR, measured against all noise, does not depend on the ice's kind."""
    snrs = []
    for kind in ("white", "fields"):
        cfg = tiny_settings.model_copy(
            update={"n_micrographs": 1, "n_noise_micrographs": 0, "n_carbon_micrographs": 0, "ice_noise": 0.8,
                    "aggregates_per_micrograph": 0.0, "ice_texture": kind, "snr": 1.0}
        )  # fmt: skip
        session(tmp_path / kind, cfg=cfg)
        snrs.append(json.loads((tmp_path / kind / "truth" / "facts.json").read_text())["snr_in_box"])
    assert snrs[1] == pytest.approx(snrs[0], rel=0.2)


def test_contamination_is_where_its_mask_says() -> None:
    assert contaminate(64, PIXEL, 0, 0, generator(0)) is None
    beads = contaminate(400, PIXEL, 0, 10, generator(1))
    assert beads is not None
    assert beads.transmission[~beads.mask].min() > 0.6  # an edge of a pixel
    assert beads.transmission[beads.mask].median() < 0.45
    assert beads.phase[~beads.mask].abs().max() == 0
    assert 0.001 < float(beads.mask.float().mean()) < 0.2
    crystals = contaminate(400, PIXEL, 6, 0, generator(2))
    assert crystals is not None
    assert crystals.phase[~crystals.mask].max() < 0.1
    assert crystals.phase[crystals.mask].mean() > 0.05
    assert torch.equal(crystals.phase, contaminate(400, PIXEL, 6, 0, generator(2)).phase)  # type: ignore[union-attr]


def test_fine_lattices_show_the_reflections_of_ice() -> None:
    crystals = contaminate(512, 1.0, 3, 0, generator(5))
    assert crystals is not None
    assert crystals.mask.any()
    power = torch.fft.rfft2(crystals.phase).abs().square()
    s = frequency(512, 1.0)
    ring = power[((s - 1 / 3.9).abs() < 0.01)].max()
    assert ring > 100 * power[(s - 0.23).abs() < 0.01].max()


def test_halves_lack_half_and_the_denatured_lose_their_shape() -> None:
    rng = np.random.default_rng(0)
    atoms = Atoms(rng.normal(0, 15, (3000, 3)), np.ones(3000), np.zeros(3000))
    radius = np.linalg.norm(atoms.position, axis=1).max()
    found = break_particles(atoms, 0)
    for kind, part in found:
        assert np.linalg.norm(part.position, axis=1).max() <= radius + 1e-6
        if kind == HALF:
            assert 0.35 < len(part.position) / 3000 < 0.65
        else:
            assert kind == DENATURED
            moved = np.linalg.norm(part.position - atoms.position, axis=1)
            assert np.sqrt((moved**2).mean()) == pytest.approx(14 * np.sqrt(3), rel=0.4)
    assert {kind for kind, _ in found} == {HALF, DENATURED}


def test_a_dirty_session_tells_what_is_what(tmp_path: Path, tiny_settings: SimulateSession) -> None:
    cfg = tiny_settings.model_copy(
        update={"broken_fraction": 0.5, "gold_beads_per_micrograph": 3.0, "ice_crystals_per_micrograph": 1.0,
                "n_angles": 1, "angle_range_deg": 90.0, "ice_texture": "grains", "n_state_volumes": 3}
    )  # fmt: skip
    session(tmp_path, cfg=cfg)
    truth = tmp_path / "truth"
    whole, broken = (read_table(truth / f"{n}.star", "particles") for n in ("particles", "broken"))
    facts = json.loads((truth / "facts.json").read_text())
    assert facts["n_broken"] == len(broken)
    assert len(broken) / (len(whole) + len(broken)) == pytest.approx(0.5, abs=0.25)
    assert set(integers(broken, "emflowBroken")) == {HALF, DENATURED}
    assert set(integers(broken, "emflowState")) == {-1}
    angles = floats(whole, "emflowCoordinate1")
    assert set(integers(whole, "emflowState")) == {0}
    assert angles.std() > 10
    assert np.abs(angles).max() <= 45
    micrographs = read_table(truth / "micrographs.star", "micrographs")
    flagged = integers(micrographs, "emflowContaminated")
    assert flagged[2] == 0  # ice alone
    assert flagged[:2].any()
    for table in (whole, broken):
        for name, x, y in zip(table["rlnMicrographName"], floats(table, "rlnCoordinateX"),
                              floats(table, "rlnCoordinateY"), strict=True):  # fmt: skip
            assert read_mrc(truth / "masks" / Path(str(name)).name)[round(y), round(x)] == 0
    assert len(list((truth / "states").glob("*.mrc"))) == 3
    assert facts["snr_in_box"] == pytest.approx(4.0, rel=0.6)


def test_radiation_damage_fades_fine_detail_first() -> None:
    s = torch.tensor([0.01, 0.1, 0.25, 0.4])
    left = damage(s, 50.0, 300.0)
    assert (left[1:] < left[:-1]).all()
    assert left[0] > 0.9
    # direct average of exp(−n/(2 n_c)) over the exposure, at 4 Å
    critical = 0.245 * 0.25**-1.665 + 2.81
    doses = np.linspace(0, 50, 20001)
    assert float(left[2]) == pytest.approx(np.exp(-doses / (2 * critical)).mean(), rel=1e-3)
    assert (damage(s, 50.0, 200.0) < left).all()

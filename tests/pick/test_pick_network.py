"""The general picker network: what it finds, where, in which image, and what it leaves alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from emflow.io.image import read_image
from emflow.io.mrc import read_mrc
from emflow.io.star import floats, read_star
from emflow.nn.weights import manifest_path
from emflow.pick.apply_network import Picker, candidates, pick_with_network
from emflow.pick.config import PickApply
from emflow.pick.filters import gaussian_blur
from emflow.pick.inputs_network import GENERAL, load_general
from emflow.pick.network import DIAMETER_PX, PickerNetwork, heat_map
from emflow.pick.score import match
from emflow.simulate import command as simulate
from emflow.simulate.config import SimulateSession
from emflow.step import EmflowError

PIXEL, SIDE = 4.0, 512
RADIUS = 10.0


@dataclass(frozen=True)
class Scene:
    """A simulated micrograph, dark protein, with its truth."""

    image: Tensor
    centres: np.ndarray
    diameter_px: float
    cfg: PickApply


@pytest.fixture(scope="module")
def picker() -> Picker:
    return load_general(torch.device("cpu"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    out = tmp_path_factory.mktemp("session")
    settings = SimulateSession(
        seed=5, n_micrographs=1, n_carbon_micrographs=0, aggregates_per_micrograph=0, micrograph_size_px=SIDE,
        pixel_size_angstrom=PIXEL, diameter_angstrom=150, mass_kda=300, snr=0.3, particles_per_micrograph=70,
        min_distance=1.0, ice_texture="grains", ice_noise=0.05, n_state_volumes=1,
    )  # fmt: skip
    simulate.session(out, cfg=settings)
    diameter = json.loads((out / "truth" / "facts.json").read_text())["diameter_angstrom"]
    rows = read_star(out / "truth" / "particles.star")["particles"]
    centres = np.column_stack([floats(rows, "rlnCoordinateX"), floats(rows, "rlnCoordinateY")])
    image = torch.from_numpy(read_mrc(out / "micrographs" / "sim_00001.mrc"))
    cfg = PickApply(method="network", diameter_angstrom=diameter)
    return Scene(image, centres, diameter / PIXEL, cfg)


def f1(xy: np.ndarray, truth: np.ndarray, radius: float) -> float:
    return 2 * int((match(xy, truth, radius) >= 0).sum()) / (len(xy) + len(truth))


def test_finds_particles_and_tells_their_places(scene: Scene, picker: Picker) -> None:
    centres = scene.centres
    picks = pick_with_network(scene.image, PIXEL, True, scene.cfg, picker)
    assert f1(picks.xy_px, centres, RADIUS) > 0.93
    found = match(picks.xy_px, centres, RADIUS)
    offset = picks.xy_px[found >= 0] - centres[found[found >= 0]]
    assert np.median(np.linalg.norm(offset, axis=1)) < 0.08 * scene.diameter_px
    assert np.abs(offset.mean(0)).max() < 0.7  # no half pixel is lost between the scales
    assert (np.diff(picks.probability) <= 0).all()
    assert float(np.mean(1 - picks.probability)) <= CFG.false_discovery_rate


@pytest.mark.parametrize(
    "change",
    [
        lambda x: ((x - x.min()) / (x.max() - x.min()) * 255).round(),  # 8 bit
        lambda x: (x / x.std()).half().float(),
        lambda x: 1e4 + 50 * x,
    ],
    ids=["8 bit", "float16", "counts"],
)
def test_units_do_not_matter(change: Callable[[Tensor], Tensor], scene: Scene, picker: Picker) -> None:
    picks = pick_with_network(change(scene.image), PIXEL, True, scene.cfg, picker)
    assert f1(picks.xy_px, scene.centres, RADIUS) > 0.92


def test_bright_protein_is_dark_protein_negated(scene: Scene, picker: Picker) -> None:
    one = pick_with_network(scene.image, PIXEL, True, scene.cfg, picker)
    other = pick_with_network(-scene.image, PIXEL, False, scene.cfg, picker)
    np.testing.assert_array_equal(one.xy_px, other.xy_px)


def test_an_image_that_is_not_square(scene: Scene, picker: Picker) -> None:
    part, truth = scene.image[:300, 40:], scene.centres - [40, 0]
    picks = pick_with_network(part, PIXEL, True, scene.cfg, picker)
    inside = (truth[:, 1] < 280) & (truth[:, 0] > 20)
    clear = (picks.xy_px[:, 1] < 280) & (picks.xy_px[:, 0] > 20)
    assert f1(picks.xy_px[clear], truth[inside], RADIUS) > 0.85


def test_coarse_and_fine_pixels_alike(scene: Scene, picker: Picker) -> None:
    coarse = torch.nn.functional.avg_pool2d(scene.image[None, None], 3)[
        0, 0
    ]  # 12 pixels wide, half the network's
    picks = pick_with_network(coarse, 3 * PIXEL, True, scene.cfg, picker)
    assert f1(picks.xy_px * 3 + 1, scene.centres, RADIUS) > 0.85


def test_tiles_change_nothing(scene: Scene, picker: Picker) -> None:
    image = -scene.image
    weight = torch.ones_like(image)
    whole, tiled = (heat_map(picker.network, image, weight, tile) for tile in (1024, 320))
    assert picker.network.margin * 2 < 320 < 512
    torch.testing.assert_close(whole.centre, tiled.centre, atol=1e-3, rtol=0)
    torch.testing.assert_close(whole.dirt, tiled.dirt, atol=1e-4, rtol=0)


def test_no_two_candidates_are_near(scene: Scene, picker: Picker) -> None:
    found = candidates(scene.image, PIXEL, True, scene.cfg, picker.network)
    apart = np.linalg.norm(found.xy_px[:, None] - found.xy_px, axis=-1) + 1e9 * np.eye(len(found.xy_px))
    assert len(found.xy_px) > 50  # some are no particles
    assert apart.min() >= scene.cfg.min_distance * scene.diameter_px - 0.02  # two decimals are written


CFG = PickApply(method="network", diameter_angstrom=160.0)


def test_noise_and_empty_ice_give_nothing(picker: Picker) -> None:
    number = 0
    for seed in range(3):
        noise = torch.randn(700, 700, generator=torch.Generator().manual_seed(seed))
        ramp = torch.linspace(0, 5, 700)[:, None] * torch.linspace(1, 2, 700)
        for image in (noise, noise * (1 + 0.1 * ramp) + 3 * ramp):
            number += len(pick_with_network(image, PIXEL, True, CFG, picker).score)
    assert number <= 6  # of 6 × 320 places


def test_much_smooth_noise_is_not_taken_for_particles(picker: Picker) -> None:
    noise = torch.randn(1400, 1400, generator=torch.Generator().manual_seed(302))
    cfg = CFG.model_copy(update={"diameter_angstrom": 120.0})
    picks = pick_with_network(gaussian_blur(noise, 0.8), 3.0, True, cfg, picker)  # a thousand candidates
    assert picks.threshold_from == "shipped"
    assert len(picks.score) < 20


def test_contamination_is_masked_and_not_picked(scene: Scene, picker: Picker) -> None:
    y, x = torch.meshgrid(torch.arange(512.0), torch.arange(512.0), indexing="ij")
    crystal = ((x - 130).abs() + (y - 380).abs() < 90).float()  # a shape that training never showed
    grain = torch.randn(512, 512, generator=torch.Generator().manual_seed(8))
    centres, spread = scene.centres, float(scene.image.std())
    image = scene.image - spread * crystal * (6 + 2 * grain)
    picks = pick_with_network(image, PIXEL, True, scene.cfg, picker)
    step = np.array(picks.mask.shape) / 512
    inside = picks.mask[int(380 * step[0]), int(130 * step[1])]
    assert inside
    on = (np.abs(picks.xy_px - [130, 380]).sum(1) < 80).sum()
    assert on == 0
    clear = np.abs(centres - [130, 380]).sum(1) > 130
    assert (match(centres[clear], picks.xy_px, RADIUS) >= 0).mean() > 0.8
    assert picks.mask.mean() < 0.25


def test_a_known_mask_is_obeyed_and_not_looked_behind(scene: Scene, picker: Picker) -> None:
    known = np.zeros((512, 512), dtype=bool)
    known[:, :200] = True
    spoiled = scene.image.clone()
    spoiled[:, :180] = 5 * spoiled.mean() * torch.randn(512, 180, generator=torch.Generator().manual_seed(5))
    found = candidates(spoiled, PIXEL, True, scene.cfg, picker.network, known)
    clean = candidates(scene.image, PIXEL, True, scene.cfg, picker.network, known)
    assert found.xy_px[:, 0].min() > 195
    sure, same = (c.xy_px[c.score > -1] for c in (found, clean))
    assert f1(sure, same, 2) > 0.97  # what is masked counts nowhere


def test_the_network_needs_a_diameter_that_fits(scene: Scene, picker: Picker) -> None:
    with pytest.raises(EmflowError, match="at least two diameters"):
        pick_with_network(
            scene.image, PIXEL, True, scene.cfg.model_copy(update={"diameter_angstrom": 1200.0}), picker
        )
    with pytest.raises(EmflowError, match="constant"):
        pick_with_network(torch.ones(300, 300), PIXEL, True, scene.cfg, picker)


def test_margin_is_what_an_output_sees() -> None:
    torch.manual_seed(0)
    network = PickerNetwork()
    torch.nn.init.normal_(network.unet.last.weight)
    x = torch.zeros(1, 1, 2 * network.margin + 4 * network.stride, 32)
    far = x.clone()
    far[..., -1, :] = 10.0
    with torch.no_grad():
        change = (network(far) - network(x)).abs().amax((0, 1, 3))
    assert float(change[: len(change) - network.margin].max()) == 0
    assert float(change[-1]) > 0


def test_shipped_weights_are_small_and_tell_where_they_come_from() -> None:
    manifest = json.loads(manifest_path(GENERAL).read_text())
    assert GENERAL.stat().st_size < 1.5e6
    assert manifest["licence"] == "BSD-3-Clause"
    assert "make_general" in manifest["recipe"][0]
    assert DIAMETER_PX == 24  # what the weights were trained at


@pytest.mark.parametrize(("name", "pixel", "diameter", "radius", "least"), [
    ("apoferritin", 1.5, 130.0, 15.0, 0.85),
    ("ribosome", 5.36, 285.0, 14.0, 0.78),
])  # fmt: skip
def test_real_micrographs(
    real_data: Path, picker: Picker, name: str, pixel: float, diameter: float, radius: float, least: float
) -> None:
    path = sorted((real_data / name).glob("*.tif"))[0]
    cfg = PickApply(method="network", diameter_angstrom=diameter)
    picks = pick_with_network(torch.from_numpy(read_image(path)), pixel, True, cfg, picker)
    assert f1(picks.xy_px, pd.read_csv(path.with_suffix(".csv")).to_numpy(), radius) > least

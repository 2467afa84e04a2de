"""Classical pickers: scale of the Laplacian, views of a map, what templates tell apart, noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from emflow.em.grids import orientation_grid
from emflow.em.optics import Ctf
from emflow.io.image import read_image
from emflow.io.mrc import write_mrc
from emflow.io.star import floats, read_star
from emflow.pick import command
from emflow.pick.apply_classical import log_kernel, pick_log, pick_with_references, working_pixel
from emflow.pick.config import PickApply
from emflow.pick.config_tools import PickConsensus
from emflow.pick.references import projections, turned_averages, with_ctf
from emflow.pick.score import match
from emflow.step import EmflowError


def disk(size: int, diameter: float) -> torch.Tensor:
    axis = torch.arange(size) - size // 2
    return (torch.hypot(axis[:, None].float(), axis[None].float()) < diameter / 2).float()


def test_the_laplacian_is_positive_on_a_disk_of_its_diameter() -> None:
    kernel = log_kernel(20.0)
    half = len(kernel) // 2
    assert float(kernel.sum()) == pytest.approx(0, abs=1e-4)
    assert float(torch.linalg.vector_norm(kernel)) == pytest.approx(1, abs=1e-5)
    assert float(kernel[half, half + 9]) > 0.002
    assert float(kernel[half, half + 11]) < -0.002


def test_projections_of_a_map_are_those_of_its_orientations() -> None:
    volume = torch.zeros(33, 33, 33)
    point = torch.tensor([8.0, 3.0, -5.0])  # x, y, z from the middle
    z, y, x = torch.meshgrid(*[torch.arange(33.0) - 16] * 3, indexing="ij")
    volume += torch.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2 + (z - point[2]) ** 2) / 4)
    views = projections(volume, 2.0, 2.0, 33, 60.0)
    expected = orientation_grid(60.0) @ point
    assert len(views) == len(expected) > 50
    axis = torch.arange(33.0) - 16
    total = views.sum((1, 2))
    found = torch.stack([(views.sum(1) * axis).sum(1) / total, (views.sum(2) * axis).sum(1) / total], 1)
    assert torch.allclose(found, expected[:, :2], atol=0.1)
    half = projections(volume, 2.0, 4.0, 17, 60.0)  # coarser: half the distance in pixels
    axis = torch.arange(17.0) - 8
    assert torch.allclose((half.sum(1) * axis).sum(1) / half.sum((1, 2)), expected[:, 0] / 2, atol=0.15)


def test_averages_turn_about_their_middle() -> None:
    average = torch.zeros(1, 32, 32)
    average[0, 16, 22] = 1
    turned = turned_averages(average, 1.0, 33, 90.0)
    places = {tuple(np.unravel_index(int(image.argmax()), (33, 33))) for image in turned}
    assert places == {(16, 22), (22, 16), (16, 10), (10, 16)}


def test_the_ctf_keeps_a_template_in_place_and_takes_its_mean() -> None:
    ctf = Ctf(torch.tensor([1.5]), torch.tensor([1.5]), torch.tensor([0.0]))
    seen = with_ctf(disk(43, 28)[None], ctf, 5.0)[0]
    assert torch.allclose(seen, seen.flip(0), atol=1e-4)
    assert abs(float(seen.mean())) < 0.3 * float(disk(43, 28).mean())
    assert float(seen[21, 21]) > float(seen[0, 0])


@pytest.fixture
def session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paint: Callable, scatter: Callable
) -> np.ndarray:
    monkeypatch.chdir(tmp_path)
    places = scatter(14, 400, 50, 30, seed=3)
    write_mrc(Path("in/a.mrc"), paint(400, places, 40, depth=1.0, seed=0).numpy(), 4.0)
    write_mrc(Path("in/noise.mrc"), paint(400, places[:0], 40, seed=1).numpy(), 4.0)
    return places


@pytest.mark.parametrize("method", ["log", "averages", "map"])
def test_disks_are_found_and_noise_is_not(session: np.ndarray, method: str) -> None:
    axis = torch.arange(64.0) - 32
    ball = torch.sigmoid((20 - torch.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)) / 1.5)
    write_mrc(Path("map.mrc"), ball.numpy(), 4.0)
    write_mrc(Path("averages.mrcs"), disk(64, 40)[None].numpy(), 4.0)
    cfg = PickApply(pixel_size_angstrom=4.0, diameter_angstrom=160.0, contrast="dark", method="log")
    if method != "log":
        source = "map.mrc" if method == "map" else "averages.mrcs"
        cfg = cfg.model_copy(
            update={"method": "references", "references": source, "references_spacing_deg": 90.0}
        )
    command.apply(Path("in"), Path("p.star"), cfg=cfg)
    tables = read_star("p.star")
    assert floats(tables["micrographs"], "emflowPickCount")[1] <= 1
    part = tables["particles"][tables["particles"]["rlnMicrographName"] == "in/a.mrc"]
    xy = np.column_stack([floats(part, "rlnCoordinateX"), floats(part, "rlnCoordinateY")])
    assert (match(xy, session, 8.0) >= 0).sum() >= 13
    assert len(xy) <= 15


def test_another_map_picks_anew(session: np.ndarray) -> None:
    write_mrc(Path("a.mrcs"), disk(64, 40)[None].numpy(), 4.0)
    cfg = PickApply(
        pixel_size_angstrom=4.0, diameter_angstrom=160.0, method="references", references="a.mrcs"
    )
    command.apply(Path("in"), Path("p.star"), cfg=cfg)
    first = Path("p.star").read_bytes()
    command.apply(Path("in"), Path("p.star"), cfg=cfg)
    assert Path("p.star").read_bytes() == first
    write_mrc(Path("a.mrcs"), -disk(64, 40)[None].numpy(), 4.0)
    command.apply(Path("in"), Path("p.star"), cfg=cfg)
    assert Path("p.star").read_bytes() != first


def test_references_must_be_given(session: np.ndarray) -> None:
    cfg = PickApply(pixel_size_angstrom=4.0, diameter_angstrom=160.0, method="references")
    with pytest.raises(EmflowError, match="--references"):
        command.apply(Path("in"), Path("p.star"), cfg=cfg)


def test_noise_has_no_blobs() -> None:
    cfg = PickApply(diameter_angstrom=160.0)
    noise = torch.randn(4, 400, 400, generator=torch.Generator().manual_seed(5))
    counts = [len(pick_log(image, 4.0, True, cfg).score) for image in noise]
    assert sum(counts) <= 1


def test_classical_pickers_join_a_consensus(session: np.ndarray) -> None:
    for method in ("log", "template"):
        cfg = PickApply(pixel_size_angstrom=4.0, diameter_angstrom=160.0, method=method)
        command.apply(Path("in"), Path(f"{method}.star"), cfg=cfg)
    inputs = (Path("log.star"), Path("template.star"), Path("joined.star"))
    command.consensus(*inputs, cfg=PickConsensus(distance_px=13.0, min_probability=0.0))
    joined = read_star("joined.star")["particles"]
    xy = np.column_stack([floats(joined, "rlnCoordinateX"), floats(joined, "rlnCoordinateY")])
    assert (match(xy, session, 8.0) >= 0).sum() >= 13


def test_apoferritin(real_data: Path) -> None:
    """Crowded: hardly any background before something is picked."""
    cfg = PickApply(diameter_angstrom=130.0)
    axis = (torch.arange(80) - 40) * 2.0
    radius = torch.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    shell = ((radius < 60) & (radius > 39.5)).float()  # its published outer and inner radius
    path = sorted((real_data / "apoferritin").glob("*.tif"))[6]
    image = torch.from_numpy(read_image(path))
    truth = pd.read_csv(path.with_suffix(".csv")).to_numpy()
    at = working_pixel(image.shape, 1.5, cfg)
    references = projections(shell, 2.0, at, 43, 90.0)
    for picks, least in (
        (pick_log(image, 1.5, True, cfg), 0.85),
        (pick_with_references(image, 1.5, True, cfg, references), 0.92),
    ):
        hits = int((match(picks.xy_px, truth, 15.0) >= 0).sum())
        assert 2 * hits / (len(picks.xy_px) + len(truth)) > least

"""FSC in cones: planted anisotropy is found, isotropic halves raise no alarm, numbers known by hand are met."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.fsc import fsc, shell_index
from emflow.em.masks import cosine_edge, soft_sphere
from emflow.em.symmetry import symmetry_operators
from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import read_star, write_star
from emflow.validate.angles import fourier_coverage, judge_coverage, pool_views, view_directions
from emflow.validate.command import maps
from emflow.validate.directional import (
    Cones,
    compare_directions,
    cone_fsc,
    cone_sums,
    crossing_shells,
    fsc_volume,
    sphericity,
    sum_directions,
)
from emflow.validate.judge_directions import cone_lists, direction_metrics, judge_directions
from emflow.validate.sphere import cell_centres, cell_of, hemisphere_points

N = 48


def draw_directions(kind: str, seed: int, count: int = 2000) -> Tensor:
    """Directions of view: everywhere, all around the equator, or within 45° of +z."""
    random = torch.rand(2, count, generator=generator(seed, 9), dtype=torch.float64)
    cosine = {
        "uniform": 2 * random[0] - 1,
        "side": 0 * random[0],
        "top": 1 - random[0] * (1 - math.cos(math.pi / 4)),
    }
    return view_directions(360 * random[1], torch.rad2deg(cosine[kind].acos()))


def body(shape: str) -> tuple[Tensor, Tensor]:
    """Mask and particle: a ball or a rod along z."""
    if shape == "ball":
        return soft_sphere(N, 15, 4), soft_sphere(N, 13, 2)
    axis = torch.arange(N) - N // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    reach = ((x / 8) ** 2 + (y / 8) ** 2 + (z / 19) ** 2).sqrt()
    return cosine_edge(8 * (reach - 1.2), 4), cosine_edge(8 * (reach - 1), 2)


def reconstructed(
    kind: str, seed: int, shape: str = "ball", symmetry: str = "C1"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two halves whose noise follows the views' true coverage, empty where nobody looked; mask; views."""
    mask, inside = body(shape)
    signal = torch.fft.rfftn((torch.randn(N, N, N, generator=generator(seed)) + 1) * inside)
    index = shell_index(N)
    count = torch.zeros(N // 2 + 2).index_add_(0, index.reshape(-1), torch.ones(index.numel()))
    power = (
        torch.zeros(N // 2 + 2).index_add_(0, index.reshape(-1), signal.abs().square().reshape(-1)) / count
    )
    noise = (power * 6 * torch.exp((torch.arange(N // 2 + 2) - 15) / 3.0))[index]
    directions = draw_directions(kind, seed)
    views = pool_views(directions, symmetry_operators(symmetry))
    slices = fourier_coverage(views, cell_centres(24)).float()
    full, half = torch.fft.fftfreq(N, 1 / N), torch.fft.rfftfreq(N, 1 / N)
    z, y, x = torch.meshgrid(full, full, half, indexing="ij")
    seen = slices[cell_of(torch.stack([x, y, z], -1).reshape(-1, 3), 24, folded=True)].reshape(index.shape)
    halves = []
    for k in (1, 2):
        grain = torch.fft.rfftn(torch.randn(N, N, N, generator=generator(seed, k))) / N**1.5
        spectrum = (seen * signal + (seen * noise).sqrt() * grain) / (seen + 0.05)
        halves.append(torch.fft.irfftn(spectrum, s=(N, N, N)))
    return halves[0], halves[1], mask, directions


def cones_of(*given: str | int) -> Cones:
    one, two, mask, _ = reconstructed(*given)  # type: ignore[arg-type]
    found = compare_directions(sum_directions(one, two, mask, 3.0))
    assert found is not None
    return found


def test_all_cells_together_are_the_fsc() -> None:
    one, two, mask, _ = reconstructed("uniform", 1)
    sums = sum_directions(one, two, mask, 3.0)
    # one of each Friedel pair: half of the pixels of a full shell, each once
    radius = shell_index(N)
    full = torch.fft.fftfreq(N, 1 / N)
    z, y, x = torch.meshgrid(full, full, full, indexing="ij")
    shells = ((x * x + y * y + z * z).sqrt() + 0.5).floor().long()
    for shell in (5, 12, 20):
        assert float(sums.sums[3, shell].sum()) == pytest.approx(int((shells == shell).sum()) / 2)
    assert radius.max() > N // 2
    spectra = [torch.fft.fftn(half * mask) for half in (one, two)]
    for shell in (5, 12, 20):
        a, b = (spectrum[shells == shell] for spectrum in spectra)
        expected = float((a * b.conj()).real.sum() / (a.abs().square().sum() * b.abs().square().sum()).sqrt())
        total = sums.sums[:, shell].sum(1)
        assert float(total[0] / (total[1] * total[2]).sqrt()) == pytest.approx(expected, abs=1e-5)


def test_a_cone_is_the_correlation_of_the_pixels_within_20_degrees() -> None:
    one, two, mask, _ = reconstructed("uniform", 2)
    sums = sum_directions(one, two, mask, 3.0)
    direction = hemisphere_points(50)[30]
    curve = cone_fsc(cone_sums(sums, direction[None]), 0)[0]
    full = torch.fft.fftfreq(N, 1 / N)
    z, y, x = torch.meshgrid(full, full, full, indexing="ij")
    radius = (x * x + y * y + z * z).sqrt()
    cosine = ((x * direction[0] + y * direction[1] + z * direction[2]) / radius.clamp_min(1)).abs()
    spectra = [torch.fft.fftn(half * mask) for half in (one, two)]
    # the cells are 2.5° wide: a cone a little narrower and one a little wider enclose it
    for shell in (10, 15, 20):
        near = []
        for angle in (18.0, 20.0, 22.0):
            inside = ((radius + 0.5).floor() == shell) & (cosine >= math.cos(math.radians(angle)))
            a, b = (spectrum[inside] for spectrum in spectra)
            near.append(
                float((a * b.conj()).real.sum() / (a.abs().square().sum() * b.abs().square().sum()).sqrt())
            )
        assert min(near) - 0.05 < float(curve[shell]) < max(near) + 0.05


def test_a_crossing_is_linear_between_shells_and_bounded() -> None:
    curves = torch.tensor([[1, 1, 0.9, 0.5, 0.1, 0.3], [1, 1, 0.1, 0.1, 0.1, 0.1], [1, 1, 1, 1, 1, 1]])
    assert crossing_shells(curves, 0.3, 1).tolist() == pytest.approx([3.5, 1 + 7 / 9, 5])
    assert crossing_shells(curves, 0.3, 2).tolist() == pytest.approx([3.5, 2, 5])


def test_sphericity_of_a_ball_and_of_a_spheroid() -> None:
    points = hemisphere_points(500)
    assert sphericity(points, torch.full((500,), 7.0)) == pytest.approx(1, abs=1e-6)
    # oblate, axes 2, 2, 1: r(θ) and the known surface; V = 4/3 π a²c
    a, c = 2.0, 1.0
    radii = (((points[:, 0] ** 2 + points[:, 1] ** 2) / a**2) + points[:, 2] ** 2 / c**2) ** -0.5
    e = math.sqrt(1 - c**2 / a**2)
    area = 2 * math.pi * a**2 * (1 + (1 - e**2) / e * math.atanh(e))
    expected = math.pi ** (1 / 3) * (6 * 4 / 3 * math.pi * a**2 * c) ** (2 / 3) / area
    assert sphericity(points, radii) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("shape", "symmetry"), [("ball", "C1"), ("rod", "C1"), ("ball", "C4"), ("rod", "D3")]
)
def test_isotropic_side_view_and_top_view_sets_are_told_apart(shape: str, symmetry: str) -> None:
    """By the map alone, and by the angles alone; the least of one kind lies above the greatest of the next."""
    ratios: dict[str, list[float]] = {}
    for kind in ("uniform", "side", "top"):
        for seed in (1, 2):
            one, two, mask, directions = reconstructed(kind, seed, shape, symmetry)
            cones = compare_directions(sum_directions(one, two, mask, 3.0))
            coverage = judge_coverage(pool_views(directions, symmetry_operators(symmetry)))
            expected = {"uniform": (0.97, 1.0), "side": (0.77, 0.84), "top": (0.0, 0.1)}[kind]
            assert expected[0] <= coverage.factor <= expected[1]
            assert cones is not None
            ratios.setdefault(kind, []).append(cones.area_ratio)
            answers = [
                judge_directions(*given).verdict
                for given in ((coverage, None), (None, cones), (coverage, cones))
            ]
            assert (set(answers) == {"pass"}) if kind != "top" else ("pass" not in answers)
    assert min(ratios["uniform"]) > max(ratios["side"])
    assert min(ratios["side"]) > 0.4 > 0.3 > max(ratios["top"])


def test_the_worst_direction_is_the_one_nobody_saw() -> None:
    """Views within 45° of z leave a cone about z empty."""
    cones = cones_of("top", 3)
    assert float(cones.directions[cones.areas.argmin()][2]) > math.cos(math.radians(35))
    metrics = direction_metrics(None, cones)
    assert metrics["cone_worst_angstrom"] > 1.3 * metrics["cone_best_angstrom"]  # type: ignore[operator]
    assert metrics["cone_worst_tilt_deg"] < 35  # type: ignore[operator]
    assert cones.sphericity < cones_of("uniform", 3).sphericity
    lists = cone_lists(cones)
    assert all(a <= b <= c + 1e-6 for a, b, c in zip(lists["min"], lists["mean"], lists["max"], strict=True))


def test_noise_has_no_cones_and_no_verdict() -> None:
    one, two = (torch.randn(N, N, N, generator=generator(4, k)) for k in (1, 2))
    assert compare_directions(sum_directions(one, two, soft_sphere(N, 15, 4), 3.0)) is None
    assert judge_directions(None, None).verdict == "unknown"
    empty = torch.zeros(N, N, N)
    assert compare_directions(sum_directions(one, empty, soft_sphere(N, 15, 4), 3.0)) is None


def test_even_angles_and_an_uneven_map_contradict_each_other() -> None:
    cones = cones_of("top", 5)
    coverage = judge_coverage(pool_views(draw_directions("uniform", 5)))
    row = judge_directions(coverage, cones)
    assert row.verdict == "fail"
    assert "the map does not" in row.evidence
    row = judge_directions(judge_coverage(pool_views(draw_directions("top", 5))), cones_of("uniform", 5))
    assert row.verdict == "warn"
    assert "belongs to the map" in row.action


def test_the_3d_fsc_is_even_and_agrees_with_its_shells() -> None:
    one, two, mask, _ = reconstructed("uniform", 6)
    sums = sum_directions(one, two, mask, 3.0)
    volume = fsc_volume(sums, 16)
    assert volume.shape == (34, 34, 34)
    inner = volume[1:, 1:, 1:]
    assert torch.equal(inner, inner.flip(0, 1, 2))
    assert float(volume[17, 17, 17]) == 1
    axis = torch.arange(34) - 17
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    shells = ((x * x + y * y + z * z).float().sqrt() + 0.5).floor().long()
    assert not volume[shells > 16].any()
    whole = fsc(one * mask, two * mask)
    for shell in (8, 12, 16):
        assert float(volume[shells == shell].mean()) == pytest.approx(float(whole[shell]), abs=0.04)
    # never more than the box
    assert fsc_volume(sums, 40).shape == (N, N, N)


def test_preferred_orientation_is_named_by_the_command(tmp_path: Path) -> None:
    one, two, mask, directions = reconstructed("top", 7)
    for name, volume in (("half1", one), ("half2", two), ("mask", mask)):
        write_mrc(tmp_path / f"{name}.mrc", volume.numpy(), 3.0)
    x, y, z = directions.T
    angles = {"Rot": torch.atan2(y, x), "Tilt": z.acos(), "Psi": torch.arange(len(z)).double()}
    table = pd.DataFrame({f"rlnAngle{name}": torch.rad2deg(value).tolist() for name, value in angles.items()})
    write_star(tmp_path / "particles.star", {"particles": table})
    maps(tmp_path / "half1.mrc", tmp_path / "half2.mrc", tmp_path / "out", mask=tmp_path / "mask.mrc",
         particles=tmp_path / "particles.star")  # fmt: skip
    out = tmp_path / "out"
    rows = json.loads((out / "verdicts.json").read_text())
    (row,) = [row for row in rows if "directions" in row["question"]]
    assert row["verdict"] == "fail"
    assert "tilted data" in row["action"]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["sampling_factor"] < 0.1
    assert metrics["cone_area_ratio"] < 0.3
    assert {path.name for path in (out / "figures").iterdir()} >= {
        "directions.png",
        "views.png",
        "particles.png",
    }
    last = json.loads((out / "validation.json").read_text())["cones"]["band_shell"]
    assert read_mrc(out / "3dfsc.mrc").shape == (2 * min(last + 1, N // 2),) * 3
    assert len(read_star(out / "flagged.star")["particles"]) == 0

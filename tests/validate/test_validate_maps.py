"""Half maps whose Fourier shell correlation is known, and what the command makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.fsc import fsc, shell_index
from emflow.em.masks import radius_grid, soft_sphere
from emflow.io.mrc import RESTORED_LABEL, UNRESTORED_LABEL, write_mrc
from emflow.io.star import floats, read_star, write_star
from emflow.step import EmflowError
from emflow.validate.command import maps
from emflow.validate.config import ValidateMaps
from emflow.validate.maps import mask_edge_width

N, VOXEL = 64, 3.0


def particle(n: int = N, radius: float = 18, seed: int = 5) -> Tensor:
    """A compact blob with detail down to the voxel: white noise in a soft ball, lifted above the solvent."""
    detail = torch.randn(n, n, n, generator=generator(seed))
    return (detail + 1.5) * soft_sphere(n, radius, 3)


def halves(crossing_shell: float, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Two noisy copies with noise rising in shells, so that FSC = 0.143 at the given shell."""
    # S/N falls exponentially; FSC = S/(S+N) = 0.143 where S/N = 1/6
    return noisy(torch.exp(-(torch.arange(N // 2 + 2) - crossing_shell) / 2.5) / 6, seed)


def noisy(signal_to_noise: Tensor, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Two copies of the particle with noise of a given power in each shell."""
    signal = particle()
    index = shell_index(N)
    spectrum = torch.fft.rfftn(signal)
    power = torch.zeros(N // 2 + 2).index_add_(0, index.reshape(-1), spectrum.abs().square().reshape(-1))
    power = power / torch.zeros(N // 2 + 2).index_add_(0, index.reshape(-1), torch.ones(index.numel()))
    maps = []
    for k in (1, 2):
        noise = torch.fft.rfftn(torch.randn(N, N, N, generator=generator(seed, k))) / N**1.5
        maps.append(signal + torch.fft.irfftn(noise * (power / signal_to_noise).sqrt()[index], s=(N, N, N)))
    return maps[0], maps[1]


def run_on(tmp_path: Path, a: Tensor, b: Tensor, **more: object) -> tuple[dict, list[dict]]:
    labels = more.pop("labels", ())
    for name, volume in (("half1", a), ("half2", b)):
        write_mrc(tmp_path / f"{name}.mrc", volume.numpy(), VOXEL, labels=labels)  # type: ignore[arg-type]
    maps(tmp_path / "half1.mrc", tmp_path / "half2.mrc", tmp_path / "out", **more)  # type: ignore[arg-type]
    out = tmp_path / "out"
    return json.loads((out / "metrics.json").read_text()), json.loads((out / "verdicts.json").read_text())


def answer(verdicts: list[dict], word: str) -> dict:
    return next(row for row in verdicts if word in row["question"])


def test_resolution_is_where_the_signal_falls_below_a_sixth_of_the_noise(tmp_path: Path) -> None:
    crossing = 15.0
    metrics, verdicts = run_on(tmp_path, *halves(crossing), labels=(UNRESTORED_LABEL,))
    expected = N * VOXEL / crossing
    # masking takes noise away, so the masked curve crosses later: S/N gains the box over the particle
    assert expected * 0.6 < metrics["resolution_angstrom"] < expected * 1.05
    assert metrics["resolution_unmasked_angstrom"] == pytest.approx(expected, rel=0.1)
    assert metrics["resolution_angstrom"] < metrics["resolution_fsc05_angstrom"]
    assert answer(verdicts, "which resolution")["verdict"] == "pass"
    assert answer(verdicts, "unrestored")["verdict"] == "pass"
    assert answer(verdicts, "lift")["verdict"] == "pass"
    assert answer(verdicts, "shared start")["verdict"] == "unknown"
    table = read_star(tmp_path / "out" / "fsc.star")
    curve = floats(table["fsc"], "rlnFourierShellCorrelationUnmaskedMaps")
    np.testing.assert_allclose(curve, fsc(*halves(crossing)).numpy(), atol=1e-6)
    assert floats(table["general"], "rlnFinalResolution")[0] == pytest.approx(metrics["resolution_angstrom"])
    names = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert names == {"fsc.png", "guinier.png", "map.png", "noise.png", "directions.png"}


@pytest.mark.parametrize("kind", ["white", "smooth", "masked"])
def test_noise_has_no_resolution(tmp_path: Path, kind: str) -> None:
    a, b = (torch.randn(N, N, N, generator=generator(9, k)) for k in (1, 2))
    if kind == "smooth":
        falloff = torch.exp(-shell_index(N) / 4.0)
        a, b = (torch.fft.irfftn(torch.fft.rfftn(v) * falloff, s=(N, N, N)) for v in (a, b))
    if kind == "masked":
        a, b = a * soft_sphere(N, 24, 4), b * soft_sphere(N, 24, 4)
    metrics, verdicts = run_on(tmp_path, a, b)
    assert metrics["resolution_angstrom"] is None
    assert answer(verdicts, "which resolution")["verdict"] == "fail"
    assert "No resolution" in answer(verdicts, "which resolution")["evidence"]


@pytest.mark.parametrize("shape", ["blob", "shell"])
def test_a_shared_shape_is_not_called_a_resolution_of_the_particle(tmp_path: Path, shape: str) -> None:
    """Noise maps that share a smooth blob, or a hollow shell with sharp edges: never a confident verdict."""
    radius = radius_grid(N)
    blob = 5 * torch.exp(-((radius / 10) ** 2))
    shell = 3 * (soft_sphere(N, 20, 2) - soft_sphere(N, 12, 2))
    common = blob if shape == "blob" else shell
    a, b = (common + torch.randn(N, N, N, generator=generator(9, k)) for k in (1, 2))
    metrics, verdicts = run_on(tmp_path, a, b)
    row = answer(verdicts, "which resolution")
    assert row["verdict"] == "warn"
    assert ("overall shape" if shape == "blob" else "ball or a shell") in row["evidence"]
    assert abs(metrics["significance_aspherical_sd"]) < 4


def test_a_curve_that_lingers_is_not_called_sound(tmp_path: Path) -> None:
    """As when half of the orientations are wrong: FSC about 0.3 over many shells."""
    shell = torch.arange(N // 2 + 2)
    ratio = torch.where(shell < 4, 20.0, torch.where(shell < 16, 0.15, 1e-3))
    metrics, verdicts = run_on(tmp_path, *noisy(ratio))
    assert metrics["resolution_fsc05_angstrom"] > 2 * metrics["resolution_angstrom"]
    row = answer(verdicts, "which resolution")
    assert row["verdict"] == "warn"
    assert "lingers" in row["evidence"]


def test_empty_half_maps_have_nothing_to_validate(tmp_path: Path) -> None:
    zero = torch.zeros(16, 16, 16)
    metrics, verdicts = run_on(tmp_path, zero, zero)
    assert metrics["resolution_angstrom"] is None
    assert "No particles" in verdicts[0]["evidence"]
    assert verdicts[0]["verdict"] == "fail"
    assert len(read_star(tmp_path / "out" / "fsc.star")["fsc"]) == 0
    write_star(tmp_path / "few.star", {"particles": particle_table(7)})
    _, verdicts = run_on(tmp_path, zero, zero, particles=tmp_path / "few.star")
    assert "Only 7 particles" in verdicts[0]["evidence"]


def test_what_is_no_pair_of_half_maps_is_refused(tmp_path: Path) -> None:
    a, b = (torch.randn(16, 16, 16, generator=generator(k)) for k in (1, 2))
    with pytest.raises(EmflowError, match="same map"):
        run_on(tmp_path, a, 2 * a)
    with pytest.raises(EmflowError, match="differ in box"):
        run_on(tmp_path, a, b[:14, :14, :14])
    with pytest.raises(EmflowError, match="cubic"):
        run_on(tmp_path, a[:12], b[:12])
    with pytest.warns(RuntimeWarning, match="NaN"), pytest.raises(EmflowError, match="not finite"):
        run_on(tmp_path, a, torch.full_like(b, torch.nan))
    with pytest.raises(EmflowError, match="constant"):
        run_on(tmp_path, a, torch.zeros_like(b))
    with pytest.raises(EmflowError, match="restored"):
        run_on(tmp_path, a, b, labels=(RESTORED_LABEL,))
    write_mrc(tmp_path / "half2.mrc", b.numpy(), 2 * VOXEL)
    write_mrc(tmp_path / "half1.mrc", a.numpy(), VOXEL)
    with pytest.raises(EmflowError, match="voxel size"):
        maps(tmp_path / "half1.mrc", tmp_path / "half2.mrc", tmp_path / "out")


def test_a_given_mask_is_stated_and_a_hard_tight_one_is_warned_of(tmp_path: Path) -> None:
    a, b = halves(12)
    tight = torch.zeros(N, N, N)
    tight[20:44, 30:33, 30:33] = 1
    write_mrc(tmp_path / "mask.mrc", tight.numpy(), VOXEL)
    _, verdicts = run_on(tmp_path, a, b, mask=tmp_path / "mask.mrc")
    row = answer(verdicts, "lift")
    assert row["verdict"] == "warn"
    volume = 24 * 9 * VOXEL**3 / 1e3
    assert f"{volume:.0f} nm³" in row["evidence"]
    write_mrc(tmp_path / "mask.mrc", 7 * tight.numpy(), VOXEL)
    with pytest.raises(EmflowError, match="from 0 to 1"):
        run_on(tmp_path, a, b, mask=tmp_path / "mask.mrc")


def particle_table(count: int = 400, *, mixed: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    micrograph = np.arange(count) % 10
    half = np.where(mixed, np.arange(count) // 200 + 1, micrograph % 2 + 1)
    return pd.DataFrame(
        {
            "rlnMicrographName": [f"m{m}.mrc" for m in micrograph],
            "rlnRandomSubset": half,
            "rlnAngleRot": rng.uniform(-180, 180, count),
            "rlnAngleTilt": np.degrees(np.arccos(rng.uniform(-1, 1, count))),
            "rlnAnglePsi": rng.uniform(-180, 180, count),
        }
    )


def test_particles_tell_of_halves_and_views(tmp_path: Path) -> None:
    a, b = halves(15)
    star = tmp_path / "particles.star"
    write_star(star, {"particles": particle_table()})
    metrics, verdicts = run_on(tmp_path, a, b, particles=star, cfg=ValidateMaps(symmetry="C2"))
    assert answer(verdicts, "independent")["verdict"] == "pass"
    assert (metrics["half1_particles"], metrics["half2_particles"]) == (200, 200)
    assert answer(verdicts, "directions")["verdict"] == "pass"
    assert (tmp_path / "out" / "figures" / "views.png").exists()
    write_star(star, {"particles": particle_table(mixed=True)})
    _, verdicts = run_on(tmp_path, a, b, particles=star)
    assert answer(verdicts, "independent")["verdict"] == "warn"
    assert "both halves" in answer(verdicts, "independent")["evidence"]
    write_star(star, {"particles": particle_table().assign(emflowRestored=1)})
    with pytest.raises(EmflowError, match="restored particles"):
        run_on(tmp_path, a, b, particles=star)


def test_a_resolution_is_never_better_than_the_reconstructions_verdict(tmp_path: Path) -> None:
    a, b = halves(15)
    folder = tmp_path / "refine"
    folder.mkdir()
    row = {"question": "Do two starts agree?", "verdict": "fail", "evidence": "Only a shell.", "action": ""}
    (folder / "verdicts.json").write_text(json.dumps([row]))
    _, verdicts = run_on(tmp_path, a, b, reconstruct=folder)
    assert answer(verdicts, "which resolution")["verdict"] == "fail"
    assert "Only a shell." in answer(verdicts, "which resolution")["evidence"]
    assert answer(verdicts, "shared start")["verdict"] == "fail"
    apart = {"question": "Did the halves begin apart?", "verdict": "pass", "evidence": "They did."}
    (folder / "verdicts.json").write_text(json.dumps([{**row, "question": "Do they agree?"}, apart]))
    _, verdicts = run_on(tmp_path, a, b, reconstruct=folder)
    assert answer(verdicts, "which resolution")["verdict"] == "fail"
    assert answer(verdicts, "shared start")["verdict"] == "pass"
    hand = {"question": "Is the hand right?", "verdict": "unknown", "evidence": "Projections do not tell."}
    (folder / "verdicts.json").write_text(json.dumps([{**row, "verdict": "pass"}, hand]))
    _, verdicts = run_on(tmp_path, a, b, reconstruct=folder)
    assert answer(verdicts, "which resolution")["verdict"] == "pass"
    assert answer(verdicts, "shared start")["verdict"] == "pass"


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    write_star(tmp_path / "particles.star", {"particles": particle_table()})
    contents = []
    for _ in range(2):
        run_on(tmp_path, *halves(15), particles=tmp_path / "particles.star")
        files = sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file())
        contents.append({p.name: p.read_bytes() for p in files})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {
        "validation.json", "metrics.json", "verdicts.json", "fsc.star", "fsc.xml", "fsc.png", "map.png", "views.png",
        "postprocess.star", "postprocess.mrc", "postprocess_masked.mrc", "guinier.png",
        "noise.png", "directions.png", "particles.png", "3dfsc.mrc", "flagged.star",
    }  # fmt: skip


def test_edge_width_of_a_cosine_edge() -> None:
    # from 1 % to 99 % of the cosine: 0.87 of its width
    assert mask_edge_width(soft_sphere(64, 16, 8)) == pytest.approx(0.87 * 8, rel=0.1)
    assert mask_edge_width(soft_sphere(64, 16, 0)) == 0


def test_what_an_earlier_run_wrote_goes_and_nothing_else(tmp_path: Path) -> None:
    run_on(tmp_path, *halves(15.0))
    out = tmp_path / "out"
    assert (out / "postprocess.mrc").exists()
    assert (out / "figures" / "guinier.png").exists()
    (out / "mine.mrc").write_bytes(b"not emflow's")
    content = json.loads((out / "validation.json").read_text())
    content["files"] += ["../half1.mrc", "figures/../../half2.mrc"]
    (out / "validation.json").write_text(json.dumps(content))
    empty = torch.zeros(N, N, N)
    run_on(tmp_path, empty, empty)
    assert not (out / "postprocess.mrc").exists()
    assert not (out / "figures" / "guinier.png").exists()
    assert (out / "mine.mrc").exists()
    assert (tmp_path / "half1.mrc").exists()
    assert (tmp_path / "half2.mrc").exists()

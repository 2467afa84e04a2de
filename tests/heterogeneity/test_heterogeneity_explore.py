"""Volumes at given coordinates, and particles by a criterion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from emflow.heterogeneity import command
from emflow.heterogeneity.config import HeterogeneityDecode, HeterogeneityFit, HeterogeneitySelect
from emflow.heterogeneity.decode import Reach, complete, half_components
from emflow.heterogeneity.expression import evaluate
from emflow.io.mrc import read_mrc
from emflow.io.particles import load_particles
from emflow.io.star import floats, integers, read_star, write_star
from emflow.step import EmflowError

COLUMNS = {
    "z1": np.array([-1.0, 0.0, 1.0, 2.0]),
    "state": np.array([1.0, 2.0, 2.0, 3.0]),
    "rlnMicrographName": np.array(["a.mrc", "b.mrc", "a.mrc", "c.mrc"], dtype=object),
}


@pytest.fixture(scope="module")
def three(make_stack: Callable[..., tuple[Path, np.ndarray]]) -> tuple[Path, np.ndarray]:
    """Three compositions, fitted and analysed."""
    folder, labels = make_stack(3)
    command.fit(
        folder / "particles.star", folder / "maps", folder / "fit", cfg=HeterogeneityFit(components=3)
    )
    command.analyze(folder / "fit", folder / "analyze")
    return folder, labels


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("z1 > 0", [0, 0, 1, 1]),
        ("not z1 > 0", [1, 1, 0, 0]),
        ("-1 < z1 <= 1 and state == 2", [0, 1, 1, 0]),
        ("state in (1, 3) or z1 ** 2 == 0", [1, 1, 0, 1]),
        ("state not in (1, 3)", [0, 1, 1, 0]),
        ("rlnMicrographName == 'a.mrc'", [1, 0, 1, 0]),
        ("rlnMicrographName in ('b.mrc', 'c.mrc') and z1 < 1", [0, 1, 0, 0]),
        ("abs(z1 - 1) / 2 < 0.6 and z1 >= percentile(z1, 50)", [0, 0, 1, 1]),
        ("log(z1) < 1", [0, 1, 1, 1]),  # log(-1) is not smaller than anything
    ],
)
def test_a_condition_holds_for_the_right_rows(text: str, expected: list[int]) -> None:
    assert evaluate(text, COLUMNS, 4).astype(int).tolist() == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("__import__('os').system('true')", "not allowed"),
        ("z1.__class__ == 1", "not allowed"),
        ("(lambda: 1)() > z1", "not allowed"),
        ("[z1 for z1 in (1, 2)] == 1", "not allowed"),
        ("z1 > 0 if True else z1 < 0", "not allowed"),
        ("eval('1') > z1", "not allowed"),
        ("z1 > True", "not allowed"),
        ("z2 > 0", "no column z2"),
        ("z1", "no yes or no"),
        ("z1 and state == 1", "no comparison"),
        ("1 > 0", "no yes or no"),
        ("rlnMicrographName > 1", "is text"),
        ("rlnMicrographName == 1", "quotation"),
        ("z1 >", "is no condition"),
        ("z1 = 1", "is no condition"),
        ("9**9**9**9 > z1 and " * 300 + "z1 > 0", "longer"),
        ("abs(z1, z1) > 0", "takes 1"),
    ],
)
def test_anything_else_is_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(EmflowError, match=said):
        evaluate(text, COLUMNS, 4)


def test_powers_of_powers_cost_nothing() -> None:
    assert evaluate("z1 < 9**9**9", COLUMNS, 4).all()


def test_halves_are_turned_onto_the_principal_coordinates() -> None:
    """Noise as strong as the signal, in each half alone, must not shrink the turn."""
    generator = torch.Generator().manual_seed(1)
    true = torch.randn(3, 16, 16, 16, generator=generator)
    turn = torch.tensor([[0.8, 0.6], [-1.2, 1.6]])
    principal = torch.cat([true[:1], torch.tensordot(turn, true[1:], 1)])
    halves = [true + torch.randn(true.shape, generator=generator) for _ in range(2)]
    for half in half_components(principal, *halves):
        slope = (half[1:] * principal[1:]).sum((1, 2, 3)) / principal[1:].square().sum((1, 2, 3))
        assert slope.numpy() == pytest.approx([1, 1], abs=0.06)


def test_a_point_between_clusters_is_far() -> None:
    rng = np.random.default_rng(0)
    latent = rng.normal(0, 0.1, (1000, 2)) + np.where(rng.random(1000) < 0.5, -1, 1)[:, None] * [1, 0]
    far = Reach.build(latent, np.array([1.0, 1.0])).of(np.array([[-1.0, 0], [1.05, 0.05], [0, 0]]))
    assert far[:2].max() < 1 < 5 < far[2]


def test_missing_coordinates_are_those_of_the_particles_nearby() -> None:
    line = np.linspace(-1, 1, 2001)
    points = complete(np.array([[-0.5], [0.5]]), np.stack([line, line**2], 1))
    assert points[:, 1] == pytest.approx([0.25, 0.25], abs=0.02)


def test_decoded_volumes_show_the_state_and_where_they_are_sure(
    three: tuple[Path, np.ndarray], true_volumes: list[torch.Tensor]
) -> None:
    folder, labels = three
    table = read_star(folder / "fit" / "latents.star")["particles"]
    latent = np.stack([floats(table, f"emflowLatent{k}") for k in (1, 2)], 1)
    centres = np.stack([latent[labels == state].mean(0) for state in range(3)])
    lines = "\n".join(f"{a},{b}" for a, b in centres)
    (folder / "z.csv").write_text(f"z1,z2\n{lines}\n")
    command.decode(folder / "fit", folder / "decoded", latents=folder / "z.csv")
    rows = read_star(folder / "decoded" / "volumes.star")["volumes"]
    assert len(rows) == 3
    for state in (1, 2):
        volume, confidence, other = (
            torch.from_numpy(read_mrc(folder / "decoded" / name))
            for name in (
                f"volume_00{state + 1}.mrc",
                f"volume_00{state + 1}_confidence.mrc",
                "volume_001.mrc",
            )
        )
        extra = true_volumes[state] - true_volumes[0]
        change = volume - other
        assert float((change * extra).sum() / (change.norm() * extra.norm())) > 0.85
        assert confidence[extra > 0.5].mean() > 0.6
        assert confidence[extra > 0.5].mean() > 3 * confidence[true_volumes[0] + extra < 1e-4].mean()
    linear = HeterogeneityDecode(values=("0.1,0.2",), extrapolate=True, method="linear")
    command.decode(folder / "fit", folder / "again", cfg=linear)
    parts = [read_mrc(folder / "fit" / f"{name}.mrc") for name in ("mean", "component_01", "component_02")]
    expected = parts[0] + 0.1 * parts[1] + 0.2 * parts[2]
    assert (
        np.abs(read_mrc(folder / "again" / "volume_001.mrc") - expected).max() < 1e-5 * np.abs(expected).max()
    )


def test_a_volume_far_from_the_data_is_refused_unless_asked_for(three: tuple[Path, np.ndarray]) -> None:
    folder, _ = three
    with pytest.raises(EmflowError, match="times as far"):
        command.decode(folder / "fit", folder / "far", cfg=HeterogeneityDecode(values=("5,5",)))
    assert not (folder / "far").exists()
    with pytest.raises(EmflowError, match="the fit has 2"):
        command.decode(folder / "fit", folder / "far", cfg=HeterogeneityDecode(values=("0,0,0",)))
    with pytest.raises(EmflowError, match="not both"):
        command.decode(folder / "fit", folder / "far")
    cfg = HeterogeneityDecode(values=("5,5",), extrapolate=True, half_volumes=True)
    command.decode(folder / "fit", folder / "far", cfg=cfg)
    assert float(read_star(folder / "far" / "volumes.star")["volumes"]["emflowDistance"].iloc[0]) > 1.5
    assert (folder / "far" / "volume_001_half2.mrc").exists()
    (folder / "far" / "volume_mine.mrc").write_bytes(b"mine")
    command.decode(
        folder / "fit", folder / "far", cfg=HeterogeneityDecode(values=("0.1,0.2",), extrapolate=True)
    )
    assert not (folder / "far" / "volume_001_half2.mrc").exists(), "of the earlier run"
    assert (folder / "far" / "volume_mine.mrc").exists(), "not emflow's"


def test_selected_particles_are_those_of_a_true_state_with_every_column(
    three: tuple[Path, np.ndarray],
) -> None:
    folder, labels = three
    latents, fitted = folder / "analyze" / "latents.star", folder / "fit" / "particles.star"
    clusters = integers(read_star(latents)["particles"], "emflowCluster")
    assert adjusted_rand_score(labels, clusters) > 0.9
    cfg = HeterogeneitySelect(where="state == 2 and emflowClusterProbability > 0.5")
    command.select(latents, folder / "picked.star", particles=fitted, cfg=cfg)
    picked = load_particles(folder / "picked.star")
    number = {f"p{i}": i for i in range(len(labels))}
    true = labels[[number[name] for name in picked.table["emflowParticleId"]]]
    assert np.bincount(true).max() > 0.95 * len(true) > 100
    whole = read_star(folder / "particles.star")["particles"].set_index("emflowParticleId")["foreignColumn"]
    assert picked.table["foreignColumn"].tolist() == whole[picked.table["emflowParticleId"]].tolist()
    told = json.loads((folder / "picked.json").read_text())
    assert told["selected"] == len(picked)
    assert told["left_after"] == {f"where {cfg.where}": len(picked)}
    command.select(latents, folder / "same.star", particles=fitted, cfg=HeterogeneitySelect(state=(1, 3)))
    assert len(load_particles(folder / "same.star")) == (clusters != 2).sum()


def test_the_nearest_are_taken_of_what_the_other_criteria_leave(three: tuple[Path, np.ndarray]) -> None:
    folder, _ = three
    cfg = HeterogeneitySelect(where="z1 > 0", near="-3", count=40)
    command.select(
        folder / "fit" / "latents.star", folder / "near.star", cfg=cfg
    )  # particles.star lies beside
    table = read_star(folder / "fit" / "latents.star")["particles"].set_index("emflowParticleId")
    picked = load_particles(folder / "near.star").table["emflowParticleId"]
    z = floats(table, "emflowLatent1")
    assert sorted(floats(table.loc[picked], "emflowLatent1")) == sorted(np.sort(z[z > 0])[:40])


def test_a_selection_that_cannot_be_is_said_in_words(three: tuple[Path, np.ndarray]) -> None:
    folder, _ = three
    latents = folder / "fit" / "latents.star"
    for cfg, said in (
        (HeterogeneitySelect(), "Nothing says"),
        (HeterogeneitySelect(state=(1,)), "analyze wrote"),
        (HeterogeneitySelect(density_above=10), "analyze wrote"),
        (HeterogeneitySelect(near="0,0,0"), "have 2 coordinates"),
    ):
        with pytest.raises(EmflowError, match=said):
            command.select(latents, folder / "no.star", cfg=cfg)
    with pytest.raises(EmflowError, match="--particles"):
        command.select(
            folder / "analyze" / "latents.star", folder / "no.star", cfg=HeterogeneitySelect(state=(1,))
        )
    tables = read_star(folder / "fit" / "particles.star")
    write_star(folder / "part.star", {**tables, "particles": tables["particles"].iloc[1:]})
    with pytest.raises(EmflowError, match="p0"):
        command.select(
            latents,
            folder / "no.star",
            particles=folder / "part.star",
            cfg=HeterogeneitySelect(where="z1 > 0"),
        )
    command.select(latents, folder / "none.star", cfg=HeterogeneitySelect(where="z1 > 99"))
    assert json.loads((folder / "none.json").read_text())["verdict"]["verdict"] == "fail"

"""Filters, interpolation, contrast, and what the files of a reconstruction prove."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from emflow.device import generator
from emflow.em.masks import local_mean
from emflow.io.mrc import write_mrc
from emflow.io.star import write_star
from emflow.step import EmflowError
from emflow.validate.assess import compare, look_for_faults
from emflow.validate.inputs_records import read_proof

Make = Callable[..., Any]


@pytest.mark.parametrize("way", ["low-pass", "B factor", "sharpened", "padded"])
def test_both_halves_filtered(
    simulate_pair: Make, way: str, verdicts: Make, row: Make, filtered: Make
) -> None:
    pair = simulate_pair(2, box=72, voxel=2.0, mass=80, diameter=75)
    n, shell = len(pair.half1), torch.arange(len(pair.half1) // 2 + 2)
    frequency = shell / (n * pair.voxel)
    if way == "padded":  # finer voxels by zeros in Fourier space
        finer = n * 4 // 3
        crop = torch.arange(-(n // 2 - 1), n // 2)
        halves = []
        for half in (pair.half1, pair.half2):
            wide = torch.zeros(finer, finer, finer // 2 + 1, dtype=torch.complex64)
            rows_in, rows_out = crop % n, crop % finer
            wide[rows_out[:, None], rows_out, : n // 2] = torch.fft.rfftn(half)[rows_in][:, rows_in][
                :, :, : n // 2
            ]
            halves.append(torch.fft.irfftn(wide, s=(finer,) * 3) * (finer / n) ** 3)
    else:
        weight = {
            "low-pass": (shell < 26).float(),
            "B factor": torch.exp(-150 / 4 * frequency**2),
            "sharpened": torch.exp(120 / 4 * frequency**2),
        }[way]
        halves = [filtered(half, weight) for half in (pair.half1, pair.half2)]
    assert row(verdicts(pair.with_halves(*halves)), "unfiltered").verdict == "warn"


@pytest.mark.parametrize("way", ["turned", "finer", "half a voxel"])
def test_interpolated_halves(simulate_pair: Make, way: str, verdicts: Make, row: Make) -> None:
    pair = simulate_pair(0)

    def move(half: Tensor) -> Tensor:
        values = half.numpy()
        if way == "turned":
            values = ndimage.rotate(values, 20, axes=(1, 2), reshape=False, order=1)
            values = ndimage.rotate(values, 10, axes=(0, 2), reshape=False, order=1)
        elif way == "finer":
            values = ndimage.zoom(values, 1.25, order=1)
        else:
            values = ndimage.shift(values, (0.5, 0.5, 0.5), order=1)
        return torch.from_numpy(values)

    caught = row(verdicts(pair.with_halves(move(pair.half1), move(pair.half2))), "unfiltered")
    assert caught.verdict == "fail"
    assert "interpolating" in caught.evidence


def test_a_turned_half_is_told(simulate_pair: Make, verdicts: Make, row: Make) -> None:
    pair = simulate_pair(0)
    other = torch.from_numpy(ndimage.rotate(pair.half2.numpy(), 5, axes=(1, 2), reshape=False, order=3))
    caught = row(verdicts(pair.with_halves(pair.half1, other)), "lie on")
    assert caught.verdict in ("warn", "fail")
    assert float(caught.evidence.split("turned by ")[1].split("°")[0]) == pytest.approx(5, abs=0.8)


def test_inverted_contrast(simulate_pair: Make, verdicts: Make, row: Make) -> None:
    pair = simulate_pair(0)
    assert row(verdicts(pair.with_halves(-pair.half1, -pair.half2)), "bright").verdict == "fail"
    assert row(verdicts(pair.with_halves(*pair.noise)), "bright").verdict == "unknown"


def test_pure_noise_raises_no_claim(simulate_pair: Make, verdicts: Make, row: Make) -> None:
    """Two halves of noise are an honest pair of nothing: no shift, hand or leak is read into them."""
    pair = simulate_pair(0)
    rows = verdicts(pair.with_halves(*pair.noise), compare, look_for_faults)
    assert row(rows, "which resolution").verdict == "fail"
    assert row(rows, "lie on").verdict == "unknown"
    for words in ("share noise", "noise look raw", "unfiltered"):
        assert row(rows, words).verdict in ("pass", "unknown"), words


def test_local_mean_is_that_of_cubes() -> None:
    volume = torch.randn(12, 12, 12, generator=generator(3))
    expected = ndimage.uniform_filter(volume.numpy(), 5)[3:-3, 3:-3, 3:-3]
    np.testing.assert_allclose(local_mean(volume, 5)[3:-3, 3:-3, 3:-3], expected, atol=1e-5)
    assert torch.allclose(
        local_mean(torch.ones(6, 6, 6), 5), torch.ones(6, 6, 6)
    )  # the border counts what is there


def test_the_records_prove_that_halves_share_nothing(
    simulate_pair: Make, tmp_path: Path, verdicts: Make, row: Make, fake_reconstruction: Make
) -> None:
    pair = simulate_pair(1, box=48, voxel=3.5, mass=250, diameter=110)
    halves = [pair.half1, pair.half2]
    folder = fake_reconstruction(tmp_path, halves, (pair.noise[0], pair.noise[1]))
    paths = (folder / "half1.mrc", folder / "half2.mrc")
    proof = read_proof(folder, paths)
    assert set(proof.values()) == {True}
    assert row(verdicts(pair, proof=proof), "on record").verdict == "pass"
    # a particle in both halves; a micrograph in both
    table = pd.DataFrame({"emflowParticleId": ["a", "a"], "emflowMicrographId": ["m", "m"]})
    write_star(folder / "particles.star", {"particles": table.assign(rlnRandomSubset=[1, 2])})
    proof = read_proof(folder, paths)
    assert proof["no particle is in both halves"] is False
    assert proof["each micrograph belongs to one half"] is False
    # other maps than the folder's; no records
    write_mrc(folder / "half2.mrc", pair.noise[0].numpy(), 3.0)
    shutil.rmtree(tmp_path / "records")
    write_mrc(tmp_path / "half2.mrc", pair.half2.numpy(), 3.0)
    proof = read_proof(folder, (paths[0], tmp_path / "half2.mrc"))
    assert proof["the half maps are that folder's"] is None
    assert proof["the halves began from different first maps"] is None
    (tmp_path / "records" / "reconstruct.refine").mkdir(parents=True)
    (tmp_path / "records" / "reconstruct.refine" / "all.json").write_text("[1]")
    with pytest.raises(EmflowError, match="not a record"):
        read_proof(folder, paths)

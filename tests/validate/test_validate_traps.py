"""Half maps that lie in every way we know of, and ten sets that do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle
from torch import Tensor

from emflow.device import generator
from emflow.em.masks import solvent_mask
from emflow.io.mrc import write_mrc
from emflow.step import EmflowError
from emflow.validate.assess import compare, look_at_particles, look_for_faults
from emflow.validate.command import maps
from emflow.validate.inputs_records import read_proof

Make = Callable[..., Any]


CLEAN = [
    {},
    {"box": 48, "voxel": 3.5, "mass": 250, "diameter": 110, "bfactor": 250.0},
    {"box": 72, "voxel": 2.0, "mass": 80, "diameter": 75},
    {"symmetry": "C4", "mass": 60, "diameter": 55},
    {"symmetry": "D2", "mass": 60, "diameter": 55, "box": 72},
    {"symmetry": "C2", "mass": 80, "diameter": 75, "box": 64, "voxel": 3.0, "hot": 0.0},
    {"crossing": 0.45},
    {"crossing": 0.65, "hot": 2.0},
    {"support": False, "hot": 0.0},
    {"box": 80, "voxel": 1.8, "mass": 80, "diameter": 75},
]


@pytest.mark.parametrize("number", range(len(CLEAN)))
def test_no_alarm_on_a_clean_set(simulate_pair: Make, number: int, verdicts: Make) -> None:
    pair = simulate_pair(number, **CLEAN[number])
    table = whole_table(pair.voxel)
    images = [(pair.voxel, len(pair.half1))]
    rows = verdicts(
        pair,
        compare,
        look_for_faults,
        look_at_particles,
        symmetry=pair.symmetry,
        particles=table,
        images=images,
    )
    alarms = [
        f"{r.question} {r.verdict}: {r.evidence}" for r in rows.values() if r.verdict in ("warn", "fail")
    ]
    assert alarms == []
    # nothing passes by not being looked at: only what needs the files' own records stays open
    unknown = {r.question for r in rows.values() if r.verdict == "unknown"}
    assert unknown <= {
        "Is the agreement more than a shared start?",
        "Are the half maps made from unrestored pixels?",
        "Is it on record that the halves share nothing?",
        "Does the FSC fall to zero?",  # needs shells beyond 1.4 times the resolution
    }


def test_halves_that_share_a_mask_tight_reference(simulate_pair: Make, verdicts: Make, row: Make) -> None:
    pair = simulate_pair(0)
    tight = solvent_mask((pair.half1 + pair.half2) / 2, pair.voxel, dilate_angstrom=0, edge_angstrom=5).mask
    # each half multiplied by the mask of their common reference
    rows = verdicts(pair.with_halves(pair.half1 * tight, pair.half2 * tight))
    assert row(rows, "unmasked").verdict == "fail"
    assert row(rows, "noise look raw").verdict == "fail"
    # the reference's noise left in both, within the mask only
    common = 1.2 * simulate_pair(50).noise[0] * tight
    rows = verdicts(pair.with_halves(pair.half1 + common, pair.half2 + common))
    assert row(rows, "share noise").verdict in ("warn", "fail")
    assert row(rows, "unmasked").verdict == "pass"


def non_local_means(volume: Tensor, deviation: float) -> Tensor:
    kept = denoise_nl_means(
        volume.numpy(), patch_size=3, patch_distance=3, h=0.8 * deviation, sigma=deviation, fast_mode=True
    )
    return torch.from_numpy(kept).float()


def total_variation(volume: Tensor, deviation: float) -> Tensor:
    return deviation * torch.from_numpy(denoise_tv_chambolle(volume.numpy() / deviation, weight=1.0)).float()


def haar_shrinkage(volume: Tensor, deviation: float) -> Tensor:
    """Soft threshold of one level of the translation-invariant Haar transform."""
    out = torch.zeros_like(volume)
    for axis in range(3):
        step = volume.roll(-1, axis) - volume
        kept = step.sign() * (step.abs() - 3 * deviation).clamp_min(0)
        out += (step - kept - (step - kept).roll(1, axis)) / 4
    return volume + out / 1.5


def network(halves: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A small convolutional network trained to foretell one half from the other (Noise2Noise)."""
    layers: list[torch.nn.Module] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for width_in, width_out, dilation in ((1, 12, 1), (12, 12, 1), (12, 12, 2), (12, 1, 1)):
            layers += [torch.nn.Conv3d(width_in, width_out, 3, padding=dilation, dilation=dilation)]
            layers += [torch.nn.ReLU()]
        model = torch.nn.Sequential(*layers[:-1])
    scale = halves[0].std()
    both = torch.stack(halves)[:, None] / scale
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    n = both.shape[-1]
    for step in range(60):
        z, y, x = (torch.randint(0, n - 24, (3,), generator=generator(1, step))).tolist()
        patch = both[:, :, z : z + 24, y : y + 24, x : x + 24]
        optimiser.zero_grad()
        (model(patch) - patch.flip(0)).square().mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        out = model(both)[:, 0] * scale
    return out[0], out[1]


@pytest.mark.parametrize("way", ["non-local means", "total variation", "wavelets", "network", "median"])
def test_denoised_maps_are_not_taken_for_raw_halves(
    simulate_pair: Make, way: str, verdicts: Make, row: Make
) -> None:
    pair = simulate_pair(1, **CLEAN[0])
    deviation = float((pair.half1 - pair.half2).std() / 2**0.5)
    if way == "network":
        halves = network((pair.half1, pair.half2))
    elif way == "median":
        halves = tuple(
            torch.from_numpy(ndimage.median_filter(h.numpy(), 3)) for h in (pair.half1, pair.half2)
        )  # type: ignore[assignment]
    else:
        chosen = {
            "non-local means": non_local_means,
            "total variation": total_variation,
            "wavelets": haar_shrinkage,
        }[way]
        halves = (chosen(pair.half1, deviation), chosen(pair.half2, deviation))
    rows = verdicts(pair.with_halves(*halves))
    caught = row(rows, "noise look raw")
    assert caught.verdict in (("warn", "fail") if way == "median" else ("fail",)), caught.evidence
    if way == "median":
        assert row(rows, "unfiltered").verdict in ("warn", "fail")


def test_one_denoised_half(simulate_pair: Make, verdicts: Make, row: Make) -> None:
    pair = simulate_pair(2)
    deviation = float((pair.half1 - pair.half2).std() / 2**0.5)
    rows = verdicts(pair.with_halves(non_local_means(pair.half1, deviation), pair.half2))
    assert row(rows, "alike").verdict in ("warn", "fail")


def test_swapped_voxel_size(simulate_pair: Make, tmp_path: Path, verdicts: Make, row: Make) -> None:
    pair = simulate_pair(0)
    for number, voxel in ((1, 2.5), (2, 2.0)):
        write_mrc(tmp_path / f"half{number}.mrc", getattr(pair, f"half{number}").numpy(), voxel)
    with pytest.raises(EmflowError, match="voxel size"):
        maps(tmp_path / "half1.mrc", tmp_path / "half2.mrc", tmp_path / "out")
    # both headers wrong alike: only the particles know
    caught = row(verdicts(pair, images=[(1.25, 64)]), "scale")
    assert caught.verdict == "fail"
    assert "64 px of 1.25" in caught.evidence
    # cropped in Fourier space or in space: one of the two stays
    assert row(verdicts(pair, images=[(1.25, 128)]), "scale").verdict == "pass"
    assert row(verdicts(pair, images=[(2.5, 96)]), "scale").verdict == "pass"


def test_the_same_map_twice(simulate_pair: Make, tmp_path: Path, verdicts: Make, row: Make) -> None:
    pair = simulate_pair(0)
    for number, factor in ((1, 1.0), (2, -2.0)):
        write_mrc(tmp_path / f"half{number}.mrc", factor * pair.half1.numpy(), pair.voxel)
    with pytest.raises(EmflowError, match="same map"):
        maps(tmp_path / "half1.mrc", tmp_path / "half2.mrc", tmp_path / "out")
    # a copy that went through float16
    rows = verdicts(pair.with_halves(pair.half1, pair.half1.half().float()))
    assert row(rows, "share noise").verdict == "fail"


@pytest.mark.parametrize(
    ("shift", "answer"), [((1, 0, 0), "fail"), ((0, -4, 3), "fail"), ((0, 0, 0.5), "warn")]
)
def test_a_shifted_half(
    simulate_pair: Make, shift: tuple[float, ...], answer: str, verdicts: Make, row: Make
) -> None:
    pair = simulate_pair(0)
    k = [torch.fft.fftfreq(64), torch.fft.fftfreq(64), torch.fft.rfftfreq(64)]
    turn = shift[0] * k[0][:, None, None] + shift[1] * k[1][:, None] + shift[2] * k[2]
    moved = torch.fft.irfftn(torch.fft.rfftn(pair.half2) * torch.exp(-2j * torch.pi * turn), s=(64,) * 3)
    caught = row(verdicts(pair.with_halves(pair.half1, moved)), "lie on")
    assert caught.verdict == answer
    length = float(np.linalg.norm(shift))
    said = float(caught.evidence.split("shifted by ")[1].split(" voxels")[0])
    assert said == pytest.approx(length, abs=0.1)


@pytest.mark.parametrize("way", ["low-pass", "B factor", "Gaussian", "scaled"])
def test_one_filtered_half(simulate_pair: Make, way: str, verdicts: Make, row: Make, filtered: Make) -> None:
    pair = simulate_pair(2, **CLEAN[2])
    n, shell = len(pair.half1), torch.arange(len(pair.half1) // 2 + 2)
    frequency = shell / (n * pair.voxel)
    weight = {
        "low-pass": (shell < 20).float(),
        "B factor": torch.exp(-100 / 4 * frequency**2),
        "Gaussian": torch.exp(-np.log(2) * (8 * frequency) ** 2),
        "scaled": torch.full((n // 2 + 2,), 2.0),
    }[way]
    caught = row(verdicts(pair.with_halves(pair.half1, filtered(pair.half2, weight))), "alike")
    assert caught.verdict == ("warn" if way == "scaled" else "fail"), caught.evidence


def test_a_mask_cut_to_the_noise(simulate_pair: Make, verdicts: Make, row: Make) -> None:
    pair = simulate_pair(0)
    mean = (pair.half1 + pair.half2) / 2
    rows = verdicts(pair, compare, look_for_faults, mask=(mean > 1.2 * mean.std()).float())
    assert row(rows, "that of a particle").verdict == "fail"
    assert row(rows, "lift the curve").verdict == "warn"
    # the same of a smooth map, with a soft edge, is a mask
    assert row(verdicts(pair), "that of a particle").verdict == "pass"


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_over_fitted_refinement_without_halves(
    simulate_pair: Make, strength: float, verdicts: Make, row: Make
) -> None:
    """All particles refined against one reference, split afterwards: noise aligned to it is common to both."""
    pair = simulate_pair(0)
    common = strength * simulate_pair(60).noise[0]
    rows = verdicts(pair.with_halves(pair.half1 + common, pair.half2 + common))
    assert row(rows, "share noise").verdict == "fail"
    assert "solvent" in row(rows, "share noise").evidence


def einstein(reference: Tensor, seed: int, count: int = 100) -> Tensor:
    """Mean of noise volumes, each shifted to where it correlates best with a reference."""
    n = len(reference)
    target = torch.fft.rfftn(reference).conj()
    total = torch.zeros(n, n, n)
    for k in range(count):
        noise = torch.randn(n, n, n, generator=generator(seed, k))
        score = torch.fft.irfftn(torch.fft.rfftn(noise) * target, s=(n, n, n))
        at = torch.unravel_index(score.argmax(), score.shape)
        total += noise.roll(tuple(-int(i) for i in at), (0, 1, 2))
    return total / count


def test_einstein_from_noise_does_not_pass(
    simulate_pair: Make, tmp_path: Path, verdicts: Make, row: Make, fake_reconstruction: Make
) -> None:
    pair = simulate_pair(1, box=32, voxel=5.0, mass=250, diameter=110)
    halves = [einstein(pair.signal, seed) for seed in (1, 2)]
    faked = pair.with_halves(*halves)
    assert float((halves[0] * halves[1]).sum() / halves[0].norm() / halves[1].norm()) > 0.02
    rows = verdicts(faked, compare, look_for_faults)
    # nothing in the two maps tells: what would, is said to be unknown
    assert row(rows, "on record").verdict == "unknown"
    assert row(rows, "shared start").verdict == "unknown"
    # its own files give it away: one first map for both
    folder = fake_reconstruction(tmp_path, halves, (pair.signal, pair.signal))
    proof = read_proof(folder, (folder / "half1.mrc", folder / "half2.mrc"))
    rows = verdicts(faked, compare, look_for_faults, proof=proof)
    caught = row(rows, "on record")
    assert caught.verdict == "fail"
    assert row(rows, "which resolution").verdict == "fail"
    assert "different first maps" in caught.evidence


@pytest.mark.parametrize("way", ["inverted", "mirrored", "turned and mirrored"])
def test_halves_of_different_hand(simulate_pair: Make, way: str, verdicts: Make, row: Make) -> None:
    pair = simulate_pair(0)
    other = pair.half2.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2)) if way == "inverted" else pair.half2.flip(2)
    if way == "turned and mirrored":
        other = torch.from_numpy(ndimage.rotate(other.numpy(), 40, axes=(1, 2), reshape=False, order=3))
    caught = row(verdicts(pair.with_halves(pair.half1, other)), "lie on")
    assert caught.verdict == "fail"
    assert "mirror image" in caught.evidence


def views(count: int, reach: float) -> pd.DataFrame:
    """Views within a cone about z: cos(tilt) from 1 − 2·reach to 1."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "rlnAngleRot": rng.uniform(-180, 180, count),
            "rlnAngleTilt": np.degrees(np.arccos(rng.uniform(1 - 2 * reach, 1, count))),
            "rlnAnglePsi": rng.uniform(-180, 180, count),
        }
    )


def whole_table(pixel: float) -> pd.DataFrame:
    """400 particles, one in each micrograph, with all that a table should have."""
    return views(400, 1.0).assign(
        rlnRandomSubset=np.arange(400) % 2 + 1,
        rlnMicrographName=[f"{i}.mrc" for i in range(400)],
        rlnCoordinateX=500.0,
        rlnCoordinateY=np.arange(400.0),
        rlnOriginXAngst=0.0,
        rlnOriginYAngst=0.0,
        rlnMicrographPixelSize=pixel,
        rlnDefocusU=1.5e4,
        rlnDefocusV=1.45e4,
        rlnVoltage=300,
        rlnSphericalAberration=2.7,
        rlnAmplitudeContrast=0.1,
    )


def test_preferred_orientation(simulate_pair: Make, verdicts: Make, row: Make) -> None:
    pair = simulate_pair(1, **CLEAN[1])
    assert row(
        verdicts(pair, look_at_particles, particles=views(400, 0.05)), "enough directions"
    ).verdict in (
        "warn",
        "fail",
    )
    assert (
        row(verdicts(pair, look_at_particles, particles=views(400, 1.0)), "enough directions").verdict
        == "pass"
    )

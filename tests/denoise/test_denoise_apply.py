"""`denoise apply` with the shipped model: it removes noise, adds nothing, marks what it writes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from emflow.denoise import command
from emflow.denoise.apply import denoise
from emflow.denoise.config import DenoiseApply
from emflow.denoise.inputs import GENERAL, load_model
from emflow.io.mrc import read_header, read_mrc, write_mrc
from emflow.io.star import floats, read_star, write_star
from emflow.nn.unet import UNet
from emflow.step import EmflowError

CPU = torch.device("cpu")


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_shipped_model_is_small_and_told_of() -> None:
    manifest = json.loads(GENERAL.with_suffix(".json").read_text())
    assert GENERAL.stat().st_size < 2e6
    assert manifest["licence"] == "BSD-3-Clause"
    assert any("make_general" in line for line in manifest["recipe"])
    load_model(None, CPU)


def test_table_images_and_the_mark(session: Path, tmp_path: Path) -> None:
    out = tmp_path / "denoise" / "shard_00001.star"
    command.apply(session, out, cfg=DenoiseApply())
    given, tables = read_star(session), read_star(out)
    table = tables["micrographs"]
    for column in given["micrographs"]:  # the original's name stays, as does all else
        assert list(table[column]) == list(given["micrographs"][column])
    assert list(table["emflowRestored"]) == ["1"] * 3
    assert len(tables["set_aside"]) == 0
    for row in table.to_dict("records"):
        denoised = Path(row["emflowDenoisedName"])
        assert denoised == tmp_path / "denoise" / "images" / f"{row['emflowMicrographId']}.mrc"
        header = read_header(denoised)
        assert header.restored
        assert header.voxel_size_angstrom == pytest.approx(6.0)
        raw, image, clean = (
            read_mrc(p) for p in (row["rlnMicrographName"], denoised, row["emflowCleanName"])
        )
        assert image.shape == raw.shape
        best = max(correlation(gaussian_filter(raw, s), clean) for s in (0.5, 1, 1.5, 2, 3, 4, 6))
        assert correlation(image, clean) > best > correlation(raw, clean)
        assert image.mean() == pytest.approx(raw.mean(), abs=0.5)  # in the micrograph's own units


def test_of_pure_noise_nearly_nothing_is_left() -> None:
    network, scale, _ = load_model(None, CPU)
    for seed in range(3):
        noise = torch.randn(700, 600, generator=torch.Generator().manual_seed(seed))
        result = denoise(noise, 3.0, network, scale, 1024, bright=False)
        assert result.kept_variance < 0.01
        again = denoise(noise.flip(0) * 30 + 7, 3.0, network, scale, 1024, bright=False)
        assert again.kept_variance < 0.01


def test_bright_protein_is_the_negative(session: Path) -> None:
    network, scale, _ = load_model(None, CPU)
    image = torch.from_numpy(read_mrc(read_star(session)["micrographs"]["rlnMicrographName"].iloc[0]))
    dark = denoise(image, 6.0, network, scale, 1024, bright=False).image
    bright = denoise(-image, 6.0, network, scale, 1024, bright=True).image
    torch.testing.assert_close(-dark, bright, atol=1e-3, rtol=0)


def test_tiles_leave_no_seam() -> None:
    network, scale, _ = load_model(None, CPU)
    image = torch.randn(620, 431, generator=torch.Generator().manual_seed(0))
    whole = denoise(image, 6.0, network, scale, 1024, bright=False).image
    tiled = denoise(image, 6.0, network, scale, 256, bright=False).image
    torch.testing.assert_close(whole, tiled, atol=1e-5, rtol=0)


def test_same_bytes_again_and_nothing_done_twice(
    session: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "a" / "shard_00001.star", tmp_path / "b" / "shard_00001.star"
    command.apply(session, out)
    command.apply(session, other)
    images = sorted((tmp_path / "a" / "images").iterdir())
    assert len(images) == 3
    for path in images:
        assert path.read_bytes() == (tmp_path / "b" / "images" / path.name).read_bytes()
    calls = []
    real = command.denoise
    monkeypatch.setattr(command, "denoise", lambda *a: calls.append(1) or real(*a))
    first = out.read_bytes()
    out.unlink()
    command.apply(session, out)
    assert not calls
    assert out.read_bytes() == first
    images[1].unlink()  # an image that was removed is made again, it alone
    command.apply(session, out)
    assert len(calls) == 1
    whole = images[0].read_bytes()
    images[0].write_bytes(whole[:5000])  # and so is one that was cut short
    command.apply(session, out)
    assert len(calls) == 2
    assert images[0].read_bytes() == whole
    command.apply(session, out, cfg=DenoiseApply(weights=str(other_model(tmp_path))))
    assert len(calls) == 5  # other weights: all anew


def other_model(folder: Path, widths: tuple[int, ...] = (4, 6)) -> Path:
    from emflow.nn.weights import write_model

    scale = {"pixel_angstrom": 6.0, "background_angstrom": 250.0, "deviation_angstrom": 500.0}
    write_model(
        folder / "other.safetensors",
        UNet(widths).state_dict(),
        {"kind": "unet", "widths": [4, 6]},
        licence="none",
        recipe=[],
        facts={"scale": scale},
    )
    return folder / "other.safetensors"


def test_only_examples_are_denoised_where_few_are_asked_for(session: Path, tmp_path: Path) -> None:
    out = tmp_path / "shown" / "micrographs.star"
    for count in (2, 1):
        command.apply(session, out, examples=count)
        table = read_star(out)["micrographs"]
        names = sorted(Path(name) for name in table["emflowDenoisedName"])
        assert len(names) == count
        assert sorted((tmp_path / "shown" / "images").glob("*")) == names, "those of others are removed"


def test_wrong_models_are_refused(session: Path, tmp_path: Path) -> None:
    def refusal() -> str:
        with pytest.raises(EmflowError) as error:
            command.apply(session, tmp_path / "out.star", cfg=DenoiseApply(weights=str(path)))
        return str(error.value)

    path = other_model(tmp_path, widths=(4, 8))
    assert "do not fit" in refusal()
    path = other_model(tmp_path)
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    assert "checksum" in refusal()
    path = other_model(tmp_path)
    manifest = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**manifest, "facts": {}}))
    assert "scale" in refusal()


def test_denoised_and_broken_micrographs_are_set_aside(session: Path, tmp_path: Path) -> None:
    tables = read_star(session)
    table = tables["micrographs"]
    first, second = table["rlnMicrographName"].iloc[:2]
    command.apply(session, tmp_path / "once.star")
    denoised = read_star(tmp_path / "once.star")["micrographs"]["emflowDenoisedName"].iloc[0]
    Path(first).write_bytes(Path(denoised).read_bytes())
    write_mrc(second, np.ones((150, 141), dtype=np.float32), 6.0)
    write_star(tmp_path / "again.star", {**tables, "micrographs": table.assign(emflowDigest=["1", "2", "3"])})
    command.apply(tmp_path / "again.star", tmp_path / "twice.star")
    again = read_star(tmp_path / "twice.star")
    reasons = list(again["set_aside"]["emflowReason"])
    assert "already denoised" in reasons[0]
    assert "single value" in reasons[1]
    assert list(again["micrographs"]["emflowMicrographId"]) == ["id2"]
    assert float(floats(again["micrographs"], "emflowKeptVariance")[0]) < 1


def test_denoised_micrographs_are_refused_where_particles_are_cut(session: Path, tmp_path: Path) -> None:
    from emflow.extract.inputs import refuse_restored
    from emflow.io.micrographs import load_micrographs

    command.apply(session, tmp_path / "out.star")
    refuse_restored(load_micrographs(session))
    marked = load_micrographs(tmp_path / "out.star")
    images = marked.table.assign(rlnMicrographName=marked.table["emflowDenoisedName"])
    for table in (images, images.drop(columns="emflowRestored")):  # the column or the label is enough
        with pytest.raises(EmflowError, match="denoised"):
            refuse_restored(type(marked)(table, marked.optics))


def test_no_micrographs_flow_through(session: Path, tmp_path: Path) -> None:
    tables = read_star(session)
    write_star(tmp_path / "none.star", {**tables, "micrographs": tables["micrographs"].iloc[:0]})
    command.apply(tmp_path / "none.star", tmp_path / "out.star")
    out = read_star(tmp_path / "out.star")["micrographs"]
    assert len(out) == 0
    assert {"emflowDenoisedName", "emflowRestored"} <= set(out.columns)

"""Apoferritin, a hollow shell: annotated particles of two micrographs are kept, boxes of ice are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.spatial import KDTree

from emflow.classify.command import run, select
from emflow.classify.config import ClassifyRun, ClassifySelect
from emflow.ctf.config import CtfFit
from emflow.ctf.fit import fit_ctf
from emflow.extract.boxes import choose_box
from emflow.extract.config import ExtractRun
from emflow.extract.cut import cut_particles
from emflow.io.image import read_image
from emflow.io.mrc import write_mrc
from emflow.io.star import integers, read_star, write_star
from emflow.step import OpticsFacts

FACTS = OpticsFacts(pixel_size_angstrom=1.5, cs_mm=0.0, amplitude_contrast=0.07)
SIZE, ICE = 48, 30


def write_stack(micrographs: list[Path], folder: Path) -> Path:
    """Cut out annotated particles, and places of ice far from them; STAR with emflowIce."""
    cfg = ExtractRun(**FACTS.model_dump(), diameter_angstrom=130, binned_size_px=SIZE)
    box = choose_box(cfg, 1.5)
    rng = np.random.default_rng(1)
    images, tables = [], []
    for path in micrographs:
        image = torch.from_numpy(read_image(path))
        ctf = fit_ctf(image, FACTS, CtfFit())
        known = pd.read_csv(path.with_suffix(".csv"))[["y_px", "x_px"]].to_numpy()
        tried = rng.uniform(80, np.array(image.shape) - 80, (4000, 2))
        away = tried[KDTree(known).query(tried)[0] > 75][:ICE]
        centres = torch.from_numpy(np.concatenate([known, away]).astype(int))
        cut = cut_particles(image, centres, box, invert=True, max_outside=0.0)
        ice = (np.arange(len(centres)) >= len(known))[cut.kept.numpy()]
        images.append(cut.images.numpy())
        values = [path.name, ctf.defocus_u_um * 1e4, ctf.defocus_v_um * 1e4, ctf.defocus_angle_deg, "1"]
        names = ["rlnMicrographName", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnOpticsGroup"]
        table = pd.DataFrame([values] * len(ice), columns=pd.Index(names), dtype=object)
        tables.append(table.assign(emflowIce=ice.astype(int)))
    stack = np.concatenate(images)
    pixel = box.size_px * box.pixel_size_angstrom / SIZE
    write_mrc(folder / "particles.mrcs", stack, pixel)
    table = pd.concat(tables, ignore_index=True)
    named = table.assign(rlnImageName=[f"{i + 1:06d}@{folder / 'particles.mrcs'}" for i in range(len(table))])
    optics = {
        "rlnOpticsGroup": "1", "rlnImagePixelSize": pixel, "rlnImageSize": SIZE,
        "rlnVoltage": 300, "rlnSphericalAberration": 0.0, "rlnAmplitudeContrast": 0.07,
    }  # fmt: skip
    write_star(
        folder / "particles.star", {"optics": pd.DataFrame([optics], dtype=object), "particles": named}
    )
    return folder / "particles.star"


def test_apoferritin_is_kept_and_ice_is_not(real_data: Path, tmp_path: Path) -> None:
    star = write_stack(sorted((real_data / "apoferritin").glob("*.tif"))[:2], tmp_path)
    ice = integers(read_star(star)["particles"], "emflowIce")
    run(star, tmp_path / "run", cfg=ClassifyRun(diameter_angstrom=130, n_classes=6, n_iterations=10))
    select(tmp_path / "run", tmp_path / "out", cfg=ClassifySelect(labels=""))
    kept = integers(read_star(tmp_path / "out" / "selected.star")["particles"], "emflowIce")
    removed = read_star(tmp_path / "out" / "removed.star")["particles"]
    assert (kept == 0).sum() > 0.9 * (ice == 0).sum() > 200
    assert (kept == 1).sum() < 0.1 * (ice == 1).sum()
    lost = removed[integers(removed, "emflowIce") == 0]
    assert not lost["emflowReason"].str.startswith("class removed").any()

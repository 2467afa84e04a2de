"""Real micrographs of apoferritin at 13 Å and coarser, where the shell is round: poses need not be known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.spatial import KDTree
from sklearn.metrics import roc_auc_score

from emflow.ctf.config import CtfFit
from emflow.ctf.fit import fit_ctf
from emflow.em.masks import soft_sphere
from emflow.extract.boxes import choose_box
from emflow.extract.config import ExtractRun
from emflow.extract.cut import cut_particles
from emflow.heterogeneity import command
from emflow.heterogeneity.config import HeterogeneityFit
from emflow.io.image import read_image
from emflow.io.mrc import write_mrc
from emflow.io.star import floats, read_star, write_star
from emflow.step import OpticsFacts

FACTS = OpticsFacts(pixel_size_angstrom=1.5, cs_mm=0.0, amplitude_contrast=0.07)
SIZE = 32
ICE_PER_MICROGRAPH = 30


def write_stack(micrographs: list[Path], folder: Path) -> np.ndarray:
    """Cut out annotated particles, and places of ice far from them; returns which are ice."""
    cfg = ExtractRun(**FACTS.model_dump(), diameter_angstrom=130, binned_size_px=SIZE)
    rng = np.random.default_rng(1)
    images, rows, ice = [], [], []
    for number, path in enumerate(micrographs):
        image = torch.from_numpy(read_image(path))
        ctf = fit_ctf(image, FACTS, CtfFit())
        known = pd.read_csv(path.with_suffix(".csv"))[["y_px", "x_px"]].to_numpy()
        tried = rng.uniform(80, np.array(image.shape) - 80, (4000, 2))
        away = tried[KDTree(known).query(tried)[0] > 75][:ICE_PER_MICROGRAPH]
        centres = np.concatenate([known, away])
        cut = cut_particles(
            image, torch.from_numpy(centres.astype(int)), choose_box(cfg, 1.5), invert=True, max_outside=0.0
        )
        kept = cut.kept.numpy()
        count = int(kept.sum())
        images.append(cut.images.numpy())
        ice.append((np.arange(len(centres)) >= len(known))[kept])
        columns = {
            "rlnDefocusU": ctf.defocus_u_um * 1e4,
            "rlnDefocusV": ctf.defocus_v_um * 1e4,
            "rlnDefocusAngle": ctf.defocus_angle_deg,
            "rlnRandomSubset": number % 2 + 1,
            "rlnOriginXAngst": 0.0,
            "rlnOriginYAngst": 0.0,
            "rlnOpticsGroup": 1,
        }
        rows.append(pd.DataFrame({name: [value] * count for name, value in columns.items()}))
    stack = np.concatenate(images)
    pixel = choose_box(cfg, 1.5).pixel_size_angstrom
    table = pd.concat(rows, ignore_index=True)
    table["rlnImageName"] = [f"{i + 1:06d}@stack.mrcs" for i in range(len(stack))]
    table["emflowParticleId"] = [f"p{i}" for i in range(len(stack))]
    table["rlnAngleRot"], table["rlnAnglePsi"] = rng.uniform(-180, 180, (2, len(stack)))
    table["rlnAngleTilt"] = np.rad2deg(np.arccos(rng.uniform(-1, 1, len(stack))))
    optics = {
        "rlnOpticsGroup": [1],
        "rlnImagePixelSize": [pixel],
        "rlnImageSize": [SIZE],
        "rlnVoltage": [FACTS.voltage_kv],
        "rlnSphericalAberration": [FACTS.cs_mm],
        "rlnAmplitudeContrast": [FACTS.amplitude_contrast],
    }
    write_mrc(folder / "stack.mrcs", stack, pixel)
    write_star(folder / "particles.star", {"optics": pd.DataFrame(optics), "particles": table})
    write_mrc(folder / "maps" / "mask.mrc", soft_sphere(SIZE, 75 / pixel, 3).numpy(), pixel)
    return np.concatenate(ice)


def test_ice_among_the_particles_is_told_by_its_contrast(real_data: Path, tmp_path: Path) -> None:
    """A fifth of the images hold no particle. That is contrast, near 0, and no motion: no component may take it."""
    ice = write_stack(sorted((real_data / "apoferritin").glob("*.tif")), tmp_path)
    assert ice.sum() > 150
    cfg = HeterogeneityFit(components=2, resolution_angstrom=20)
    command.fit(tmp_path / "particles.star", tmp_path / "maps", tmp_path / "fit", cfg=cfg)
    table = read_star(tmp_path / "fit" / "latents.star")["particles"]
    contrast = floats(table, "emflowContrast")
    assert roc_auc_score(~ice, contrast) > 0.93
    assert np.median(contrast[ice]) < 0.3
    assert 0.8 < np.median(contrast[~ice]) < 1.5
    for name in (c for c in table if c.startswith("emflowLatent") and c[12:].isdigit()):
        assert abs(roc_auc_score(ice, floats(table, name)) - 0.5) < 0.1

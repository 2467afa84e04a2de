"""Write a simulated session and its truth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from emflow.em.poses import matrix_to_euler
from emflow.io.atomic import write_text
from emflow.io.journal import result_key
from emflow.io.micrographs import optics_table
from emflow.io.mrc import write_mrc
from emflow.io.stack import GrowingStack
from emflow.io.star import write_star
from emflow.simulate.bodies import Bodies
from emflow.simulate.config import SimulateParticles, SimulateSession, Specimen
from emflow.simulate.particles import (
    choose_scale,
    draw_piece,
    n_pieces,
    noise,
    render,
    table_of,
    truth_columns,
    variance,
)
from emflow.simulate.session import Imaging, Micrograph
from emflow.step import OpticsFacts

_NO_PARTICLES = [
    *(
        "rlnMicrographName",
        "rlnOpticsGroup",
        "rlnDefocusU",
        "rlnDefocusV",
        "rlnDefocusAngle",
        "rlnPhaseShift",
    ),
    *("rlnCoordinateX", "rlnCoordinateY", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"),
    *("rlnOriginXAngst", "rlnOriginYAngst", "emflowState"),
]


def specimen_name(cfg: Specimen) -> str:
    """Names of the model's files, or "generated"."""
    files = [cfg.model] if cfg.model else list(cfg.models)
    return ", ".join(file.name for file in files) or "generated"


def write_volumes(truth: Path, bodies: Bodies, n_state_volumes: int) -> dict[str, Any]:
    """Write the mean volume, and where particles differ the volumes of states and of bodies.

    Returns
    -------
    What facts.json says of the variation; nothing for a rigid specimen.
    """
    ensemble, pixel = bodies.ensemble, bodies.pixel_size_angstrom
    write_mrc(truth / "volume.mrc", bodies.mean().numpy(), pixel)
    if not ensemble.varies:
        return {}
    conformations, weight = ensemble.spread(n_state_volumes)
    table = pd.DataFrame(
        {"rlnReferenceImage": [f"{i + 1:03d}.mrc" for i in range(len(weight))]}, dtype=object
    )
    for name, values in truth_columns(conformations).items():
        table[name] = values
    table["emflowPopulation"] = weight.tolist()
    for row, name in enumerate(table["rlnReferenceImage"]):
        write_mrc(truth / "states" / name, bodies.volume(conformations[row : row + 1]).numpy(), pixel)
    for number, volume in enumerate(bodies.parts.volumes):
        write_mrc(truth / "bodies" / f"body_{number}.mrc", volume.numpy(), pixel)
    write_star(truth / "states" / "states.star", {"states": table.astype(object)})
    return {"variation": bodies.describe()}


class SessionWriter:
    """Writes micrographs as they come, and the tables of the truth at the end."""

    def __init__(self, folder: Path, pixel_size_angstrom: float, keep_clean: bool = False) -> None:
        self._folder, self._pixel, self._keep_clean = folder, pixel_size_angstrom, keep_clean
        self._rows: list[dict[str, Any]] = []
        self._particles = [pd.DataFrame(columns=pd.Index(_NO_PARTICLES), dtype=object)]
        self._broken: list[pd.DataFrame] = []
        self._snrs: list[float] = []

    def add(self, micrograph: Micrograph) -> None:
        """Write one micrograph: its halves, their sum, its mask."""
        file = f"{micrograph.name}.mrc"
        images = {"even": micrograph.even, "odd": micrograph.odd, "truth/masks": micrograph.mask}
        if self._keep_clean:
            images["truth/clean"] = micrograph.clean
        for folder, image in (images | {"micrographs": micrograph.even + micrograph.odd}).items():
            write_mrc(self._folder / folder / file, image.numpy(), self._pixel)
        row = {
            "rlnMicrographName": f"micrographs/{file}",  # relative to the session's folder
            "rlnOpticsGroup": 1,
            "rlnDefocusU": 1e4 * float(micrograph.ctf.defocus_u_um),
            "rlnDefocusV": 1e4 * float(micrograph.ctf.defocus_v_um),
            "rlnDefocusAngle": float(micrograph.ctf.defocus_angle_deg),
            "rlnPhaseShift": 0.0,
        }
        known = {"emflowCarbon": int(micrograph.carbon)}
        if micrograph.contaminated is not None:
            known["emflowContaminated"] = int(micrograph.contaminated)
        self._rows.append({**row, **known})
        if len(micrograph.coordinates):
            angles = matrix_to_euler(micrograph.rotations.double()).numpy()
            x, y = micrograph.coordinates.double().numpy().T
            poses = {"rlnAngleRot": angles[:, 0], "rlnAngleTilt": angles[:, 1], "rlnAnglePsi": angles[:, 2]}
            rest = {"rlnOriginXAngst": 0.0, "rlnOriginYAngst": 0.0, **truth_columns(micrograph.conformations)}
            table = pd.DataFrame({**row, "rlnCoordinateX": x, "rlnCoordinateY": y, **poses, **rest})
            broken = micrograph.broken.numpy()
            self._particles.append(table[broken == 0].astype(object))
            if broken.any():
                self._broken.append(table.assign(emflowBroken=broken)[broken > 0].astype(object))
        if micrograph.snr is not None:
            self._snrs.append(micrograph.snr)

    def finish(
        self, cfg: SimulateSession, imaging: Imaging, mass_kda: float, variation: dict[str, Any]
    ) -> int:
        """Write truth/particles.star, micrographs.star and facts.json; return the number of particles."""
        truth = self._folder / "truth"
        optics = optics_table(
            OpticsFacts(
                pixel_size_angstrom=self._pixel,
                voltage_kv=cfg.voltage_kv,
                cs_mm=cfg.cs_mm,
                amplitude_contrast=cfg.amplitude_contrast,
            )
        )
        particles, micrographs = pd.concat(self._particles, ignore_index=True), pd.DataFrame(self._rows)
        write_star(truth / "particles.star", {"optics": optics, "particles": particles})
        if self._broken:
            broken = pd.concat(self._broken, ignore_index=True)
            write_star(truth / "broken.star", {"optics": optics, "particles": broken})
            variation = {**variation, "n_broken": len(broken)}
        write_star(truth / "micrographs.star", {"optics": optics, "micrographs": micrographs})
        defocus_um = [0.5e-4 * (row["rlnDefocusU"] + row["rlnDefocusV"]) for row in self._rows]
        facts = {
            "n_micrographs": len(self._rows),
            "n_particles": len(particles),
            "n_carbon_micrographs": sum(row["emflowCarbon"] for row in self._rows),
            "micrograph_size_px": cfg.micrograph_size_px,
            "pixel_size_angstrom": self._pixel,
            "voltage_kv": cfg.voltage_kv,
            "cs_mm": cfg.cs_mm,
            "amplitude_contrast": cfg.amplitude_contrast,
            "defocus_min_um": min(defocus_um),
            "defocus_max_um": max(defocus_um),
            "snr_in_box": float(np.mean(self._snrs)) if self._snrs else None,
            "snr_box_px": imaging.box_px,
            "dose_equivalent_e_per_a2": imaging.counts / self._pixel**2,
            "diameter_angstrom": imaging.diameter_angstrom,
            "mass_kda": mass_kda,
            "symmetry": cfg.symmetry,
            "specimen": specimen_name(cfg),
            "seed": cfg.seed,
            **variation,
        }
        write_text(truth / "facts.json", json.dumps(facts, indent=1) + "\n")
        return len(particles)


def write_stack(
    out: Path, cfg: SimulateParticles, bodies: Bodies, facts: dict[str, Any], device: torch.device
) -> float | None:
    """Write particle images micrograph by micrograph, then their tables; a killed run is resumed.

    Returns
    -------
    The measured signal-to-noise ratio; None without particles.
    """
    pixel = bodies.pixel_size_angstrom
    specimen = hashlib.sha256(
        b"".join(volume.numpy().tobytes() for volume in bodies.parts.volumes)
    ).hexdigest()
    keys = [result_key(cfg, specimen, index) for index in range(n_pieces(cfg))]
    stack = GrowingStack(out / "particles.mrcs", cfg.box_px, pixel)
    cleans = [GrowingStack(out / "truth" / "clean.mrcs", cfg.box_px, pixel)] * cfg.keep_clean
    powers, n_clean = stack.resume(keys), sum(len(clean.resume(keys)) for clean in cleans)
    scale = choose_scale(cfg, bodies, device)
    tables = []
    for index, key in enumerate(keys):
        piece = draw_piece(cfg, bodies.ensemble, index)
        tables.append(table_of(cfg, bodies.ensemble, piece, pixel))
        if index < len(powers) and (index < n_clean or not cleans):
            continue
        clean, grain = scale * render(cfg, bodies, piece, device).cpu(), noise(cfg, piece)
        if index >= len(powers):
            powers.append([float(variance(images).sum()) for images in (clean, grain)])
            stack.append(key, (clean + grain).numpy(), powers[-1])
        if index >= n_clean:
            for kept in cleans:
                kept.append(key, clean.numpy(), None)
    for written in (stack, *cleans):
        written.finish()
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "rlnImageName", [f"{number:06d}@particles.mrcs" for number in range(1, len(table) + 1)])
    signal, grain_power = np.sum(powers, axis=0)
    snr = float(signal / grain_power) if grain_power > 0 else None
    _write_particle_tables(out, cfg, table, {**facts, "snr_in_box": snr, "scale": scale}, pixel)
    return snr


def _write_particle_tables(
    out: Path, cfg: SimulateParticles, table: pd.DataFrame, facts: dict[str, Any], pixel: float
) -> None:
    """Write truth/particles.star with the states, truth/facts.json, and last particles.star without the states."""
    optics = optics_table(
        OpticsFacts.model_validate(cfg.model_dump(include=set(OpticsFacts.model_fields))).model_copy(
            update={"pixel_size_angstrom": pixel}
        )
    )
    optics = optics.drop(columns="rlnMicrographPixelSize").assign(
        rlnMicrographOriginalPixelSize=pixel,
        rlnImagePixelSize=pixel,
        rlnImageSize=cfg.box_px,
        rlnImageDimensionality=2,
        rlnCtfDataAreCtfPremultiplied=0,
    )
    known = {
        "n_particles": len(table),
        "box_px": cfg.box_px,
        "pixel_size_angstrom": pixel,
        "voltage_kv": cfg.voltage_kv,
        "cs_mm": cfg.cs_mm,
        "amplitude_contrast": cfg.amplitude_contrast,
        "symmetry": cfg.symmetry,
        "specimen": specimen_name(cfg),
        "seed": cfg.seed,
        **facts,
    }
    true, true_optics = table, optics
    if "emflowDefocusOffset" in table:
        moved = {
            f"rlnDefocus{axis}": table[f"rlnDefocus{axis}"] + table["emflowDefocusOffset"] for axis in "UV"
        }
        true = table.assign(**moved)
    if any(cfg.beam_tilt_mrad):
        x, y = cfg.beam_tilt_mrad
        true_optics = optics.assign(rlnBeamTiltX=x, rlnBeamTiltY=y)
    write_star(out / "truth" / "particles.star", {"optics": true_optics, "particles": true})
    write_text(out / "truth" / "facts.json", json.dumps(known, indent=1) + "\n")
    secret = ("emflowState", "emflowCoordinate", "emflowBroken", "emflowDefocusOffset")
    hidden = [name for name in map(str, table) if name.startswith(secret)]
    write_star(out / "particles.star", {"optics": optics, "particles": table.drop(columns=hidden)})

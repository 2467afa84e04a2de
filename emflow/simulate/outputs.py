"""Write a simulated session and its truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emflow.em.poses import matrix_to_euler
from emflow.io.atomic import write_text
from emflow.io.micrographs import optics_table
from emflow.io.mrc import write_mrc
from emflow.io.star import write_star
from emflow.simulate.config import SimulateSession
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


class SessionWriter:
    """Writes micrographs as they come, and the tables of the truth at the end."""

    def __init__(self, folder: Path, pixel_size_angstrom: float, keep_clean: bool = False) -> None:
        self._folder, self._pixel, self._keep_clean = folder, pixel_size_angstrom, keep_clean
        self._rows: list[dict[str, Any]] = []
        self._particles = [pd.DataFrame(columns=pd.Index(_NO_PARTICLES), dtype=object)]
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
        self._rows.append({**row, "emflowCarbon": int(micrograph.carbon)})
        if len(micrograph.coordinates):
            angles = matrix_to_euler(micrograph.rotations.double()).numpy()
            x, y = micrograph.coordinates.double().numpy().T
            poses = {"rlnAngleRot": angles[:, 0], "rlnAngleTilt": angles[:, 1], "rlnAnglePsi": angles[:, 2]}
            rest = {"rlnOriginXAngst": 0.0, "rlnOriginYAngst": 0.0, "emflowState": 0}
            table = pd.DataFrame({**row, "rlnCoordinateX": x, "rlnCoordinateY": y, **poses, **rest})
            self._particles.append(table.astype(object))
        if micrograph.snr is not None:
            self._snrs.append(micrograph.snr)

    def finish(self, cfg: SimulateSession, imaging: Imaging, mass_kda: float) -> int:
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
            "specimen": cfg.model.name if cfg.model else "generated",
            "seed": cfg.seed,
        }
        write_text(truth / "facts.json", json.dumps(facts, indent=1) + "\n")
        return len(particles)

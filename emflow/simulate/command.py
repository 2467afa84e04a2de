"""Commands of the simulate room: files in, files out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

import emflow.device
from emflow.io.atomic import write_text
from emflow.io.micrographs import optics_table
from emflow.io.mrc import write_mrc
from emflow.io.record import Record
from emflow.io.star import write_star
from emflow.simulate.config import SimulateScore, SimulateSession
from emflow.step import OpticsFacts, Run

DEFAULT_PIXEL_SIZE_ANGSTROM = 3.0
DEFAULT_DIAMETER_ANGSTROM = 200.0


def session(out: Path, /, *, cfg: SimulateSession = SimulateSession(), run: Run = Run()) -> None:
    """Make a session of micrographs with known truth.

    Parameters
    ----------
    out
        Folder to write: micrographs/, even/, odd/ and truth/.
    """
    from emflow.simulate.density import potential
    from emflow.simulate.measure import measured_snr
    from emflow.simulate.project import Projector, relion_angles
    from emflow.simulate.session import BOX_DIAMETERS, calibrate, simulate_micrographs
    from emflow.simulate.specimen import longest_diameter, make_specimen

    device = emflow.device.prepare(run)
    with Record("simulate.session", cfg, run, inputs=[cfg.model] if cfg.model else []) as record:
        pixel = cfg.pixel_size_angstrom or DEFAULT_PIXEL_SIZE_ANGSTROM
        atoms = make_specimen(cfg, cfg.diameter_angstrom or DEFAULT_DIAMETER_ANGSTROM)
        diameter = longest_diameter(atoms.position)
        box = 2 * int(np.ceil(BOX_DIAMETERS * diameter / pixel / 2))
        volume = potential(atoms, box, pixel, cfg.atom_b_factor_angstrom2)
        projector = Projector(volume.to(device), pixel)
        imaging = calibrate(cfg, projector, diameter, pixel, device)
        write_mrc(out / "truth" / "volume.mrc", volume.numpy(), pixel)

        rows, particles, snrs = [], [], []
        for micrograph in simulate_micrographs(cfg, projector, imaging, device):
            file = f"{micrograph.name}.mrc"
            write_mrc(out / "even" / file, micrograph.even.numpy(), pixel)
            write_mrc(out / "odd" / file, micrograph.odd.numpy(), pixel)
            write_mrc(out / "truth" / "masks" / file, micrograph.mask.numpy(), pixel)
            write_mrc(out / "micrographs" / file, micrograph.total.numpy(), pixel)
            name = f"micrographs/{file}"
            u, v = 1e4 * float(micrograph.ctf.defocus_u_um), 1e4 * float(micrograph.ctf.defocus_v_um)
            row = {
                "rlnMicrographName": name,
                "rlnOpticsGroup": 1,
                "rlnDefocusU": u,
                "rlnDefocusV": v,
                "rlnDefocusAngle": float(micrograph.ctf.defocus_angle_deg),
                "rlnPhaseShift": 0.0,
            }
            rows.append({**row, "emflowCarbon": int(micrograph.carbon)})
            angles = relion_angles(micrograph.rotations)
            x, y = micrograph.coordinates.double().numpy().T
            table = {**row, "rlnCoordinateX": x, "rlnCoordinateY": y}
            table |= {"rlnAngleRot": angles[:, 0], "rlnAngleTilt": angles[:, 1], "rlnAnglePsi": angles[:, 2]}
            table |= {"rlnOriginXAngst": 0.0, "rlnOriginYAngst": 0.0, "emflowState": 0}
            particles.append(pd.DataFrame(table, index=range(len(x))))
            snrs.append(measured_snr(cfg, projector, imaging, micrograph, device))
        optics = optics_table(OpticsFacts(**{**cfg.model_dump(include=set(OpticsFacts.model_fields)),
                                             "pixel_size_angstrom": pixel}))  # fmt: skip
        found = pd.concat(particles, ignore_index=True) if particles else pd.DataFrame()
        write_star(out / "truth" / "particles.star", {"optics": optics, "particles": found})
        write_star(out / "truth" / "micrographs.star", {"optics": optics, "micrographs": pd.DataFrame(rows)})
        measured = [snr for snr in snrs if snr is not None]
        facts = {
            "n_micrographs": len(rows),
            "n_particles": len(found),
            "n_carbon_micrographs": int(sum(row["emflowCarbon"] for row in rows)),
            "micrograph_size_px": cfg.micrograph_size_px,
            "pixel_size_angstrom": pixel,
            "voltage_kv": cfg.voltage_kv,
            "cs_mm": cfg.cs_mm,
            "amplitude_contrast": cfg.amplitude_contrast,
            "defocus_min_um": min(
                (0.5e-4 * (r["rlnDefocusU"] + r["rlnDefocusV"]) for r in rows), default=None
            ),
            "defocus_max_um": max(
                (0.5e-4 * (r["rlnDefocusU"] + r["rlnDefocusV"]) for r in rows), default=None
            ),
            "snr_in_box": float(np.mean(measured)) if measured else None,
            "snr_box_px": box,
            "dose_equivalent_e_per_a2": imaging.counts / pixel**2,
            "diameter_angstrom": diameter,
            "mass_kda": atoms.mass_da / 1e3,
            "symmetry": cfg.symmetry,
            "specimen": str(cfg.model) if cfg.model else "generated",
            "seed": cfg.seed,
        }
        write_text(out / "truth" / "facts.json", json.dumps(facts, indent=1) + "\n")
        record.notes["n_particles"] = len(found)


def score(
    truth: Path, results: Path, out: Path, /, *, cfg: SimulateScore = SimulateScore(), run: Run = Run()
) -> None:
    """Compare results with a simulated truth; what a partial run lacks is null.

    Parameters
    ----------
    truth
        Folder that ``emflow simulate session`` wrote.
    results
        Folder of a project's results.
    out
        Folder to write metrics.json to.
    """

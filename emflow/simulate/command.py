"""Commands of the simulate room: files in, files out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import emflow.device
from emflow.io.atomic import write_text
from emflow.io.atoms import read_atoms
from emflow.io.micrographs import optics_table
from emflow.io.mrc import write_mrc
from emflow.io.record import Record
from emflow.io.star import write_star
from emflow.simulate.config import SimulateScore, SimulateSession
from emflow.step import OpticsFacts, Run

if TYPE_CHECKING:
    from emflow.simulate.session import Micrograph
    from emflow.simulate.specimen import Atoms

DEFAULT_PIXEL_SIZE_ANGSTROM = 3.0
DEFAULT_DIAMETER_ANGSTROM = 200.0
BOX_DIAMETERS = 1.5


def session(out: Path, /, *, cfg: SimulateSession = SimulateSession(), run: Run = Run()) -> None:
    """Make a session of micrographs with known truth.

    Parameters
    ----------
    out
        Folder to write: micrographs/, even/, odd/ and truth/.
    """
    from emflow.simulate.density import potential
    from emflow.simulate.project import Projector
    from emflow.simulate.session import calibrate, simulate_micrographs
    from emflow.simulate.specimen import longest_diameter

    device = emflow.device.prepare(run)
    with Record("simulate.session", cfg, run, inputs=[cfg.model] if cfg.model else []) as record:
        pixel = cfg.pixel_size_angstrom or DEFAULT_PIXEL_SIZE_ANGSTROM
        atoms = _specimen(cfg)
        diameter = longest_diameter(atoms)
        volume = potential(atoms, _box(atoms, diameter, pixel), pixel, cfg.atom_b_factor_angstrom2)
        projector = Projector(volume.to(device), pixel)
        imaging = calibrate(cfg, projector, diameter, pixel, device)
        write_mrc(out / "truth" / "volume.mrc", volume.numpy(), pixel)
        rows, particles, snrs = [], [], []
        for micrograph in simulate_micrographs(cfg, projector, imaging, device):
            _write_images(out, micrograph, pixel)
            rows.append(_row(micrograph))
            particles.append(_particles(micrograph, rows[-1]))
            if micrograph.snr is not None:
                snrs.append(micrograph.snr)
        micrographs, found = pd.DataFrame(rows), pd.concat(particles, ignore_index=True)
        optics = optics_table(
            OpticsFacts(
                pixel_size_angstrom=pixel,
                voltage_kv=cfg.voltage_kv,
                cs_mm=cfg.cs_mm,
                amplitude_contrast=cfg.amplitude_contrast,
            )
        )
        write_star(out / "truth" / "particles.star", {"optics": optics, "particles": found})
        write_star(out / "truth" / "micrographs.star", {"optics": optics, "micrographs": micrographs})
        defocus_um = (micrographs["rlnDefocusU"] + micrographs["rlnDefocusV"]) * 0.5e-4
        facts = {
            "n_micrographs": len(micrographs),
            "n_particles": len(found),
            "n_carbon_micrographs": int(micrographs["emflowCarbon"].sum()),
            "micrograph_size_px": cfg.micrograph_size_px,
            "pixel_size_angstrom": pixel,
            "voltage_kv": cfg.voltage_kv,
            "cs_mm": cfg.cs_mm,
            "amplitude_contrast": cfg.amplitude_contrast,
            "defocus_min_um": float(defocus_um.min()),
            "defocus_max_um": float(defocus_um.max()),
            "snr_in_box": float(np.mean(snrs)) if snrs else None,
            "snr_box_px": projector.box,
            "dose_equivalent_e_per_a2": imaging.counts / pixel**2,
            "diameter_angstrom": diameter,
            "mass_kda": atoms.mass_kda,
            "symmetry": cfg.symmetry,
            "specimen": cfg.model.name if cfg.model else "generated",
            "seed": cfg.seed,
        }
        write_text(out / "truth" / "facts.json", json.dumps(facts, indent=1) + "\n")
        record.notes["n_particles"] = len(found)


def _specimen(cfg: SimulateSession) -> Atoms:
    """Read or generate the specimen, its symmetry imposed, centred."""
    from emflow.simulate.specimen import Atoms, generate_specimen, impose_symmetry

    if cfg.model is not None:
        position, electrons = read_atoms(cfg.model)
        unit = Atoms(position, electrons, np.zeros(len(electrons)))
        return (impose_symmetry(unit, cfg.symmetry, pack=False) if cfg.symmetry != "C1" else unit).centred()
    rng = np.random.default_rng(cfg.seed)
    if cfg.symmetry == "C1":
        diameter = cfg.diameter_angstrom or DEFAULT_DIAMETER_ANGSTROM
        return generate_specimen(cfg.mass_kda, diameter, cfg.n_domains, rng)
    compact = 3.0 * np.cbrt(cfg.mass_kda * 1e3 / 0.6 * 3 / (4 * np.pi))  # 1.5 times a sphere's
    unit = generate_specimen(cfg.mass_kda, compact, cfg.n_domains, rng)
    return impose_symmetry(unit, cfg.symmetry, pack=True)


def _box(atoms: Atoms, diameter_angstrom: float, pixel: float) -> int:
    """Even side of the box in which projections lie and the SNR is defined: 1.5 diameters, or what it takes."""
    from emflow.simulate.specimen import longest_radius

    side = max(BOX_DIAMETERS * diameter_angstrom, 2 * longest_radius(atoms) + 30)
    return 2 * math.ceil(side / pixel / 2)


def _write_images(out: Path, micrograph: Micrograph, pixel: float) -> None:
    file = f"{micrograph.name}.mrc"
    for folder, image in (
        ("even", micrograph.even),
        ("odd", micrograph.odd),
        ("truth/masks", micrograph.mask),
        ("micrographs", micrograph.even + micrograph.odd),
    ):
        write_mrc(out / folder / file, image.numpy(), pixel)


def _row(micrograph: Micrograph) -> dict[str, Any]:
    """One row of truth/micrographs.star; names are relative to the session's folder."""
    return {
        "rlnMicrographName": f"micrographs/{micrograph.name}.mrc",
        "rlnOpticsGroup": 1,
        "rlnDefocusU": 1e4 * float(micrograph.ctf.defocus_u_um),
        "rlnDefocusV": 1e4 * float(micrograph.ctf.defocus_v_um),
        "rlnDefocusAngle": float(micrograph.ctf.defocus_angle_deg),
        "rlnPhaseShift": 0.0,
        "emflowCarbon": int(micrograph.carbon),
    }


def _particles(micrograph: Micrograph, row: dict[str, Any]) -> pd.DataFrame:
    """Rows of truth/particles.star."""
    from emflow.em.poses import matrix_to_euler

    angles = matrix_to_euler(micrograph.rotations.double()).numpy()
    x, y = micrograph.coordinates.double().numpy().T
    columns = {key: value for key, value in row.items() if key != "emflowCarbon"}
    columns |= {"rlnCoordinateX": x, "rlnCoordinateY": y}
    columns |= {"rlnAngleRot": angles[:, 0], "rlnAngleTilt": angles[:, 1], "rlnAnglePsi": angles[:, 2]}
    columns |= {"rlnOriginXAngst": 0.0, "rlnOriginYAngst": 0.0, "emflowState": 0}
    return pd.DataFrame(columns, index=range(len(x)))


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

"""Build the specimen that the settings ask for: one body, or a body that moves, or several compositions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from emflow.simulate.broken import break_particles
from emflow.simulate.config import Specimen
from emflow.simulate.divide import choose_motion, compositions, divide
from emflow.simulate.ensemble import Conformations, Ensemble, Motion, State
from emflow.simulate.specimen import (
    Atoms,
    generate_specimen,
    impose_symmetry,
    longest_diameter,
    longest_radius,
)
from emflow.step import EmflowError

DEFAULT_DIAMETER_ANGSTROM = 200.0
BOX_DIAMETERS = 1.5
"""Side of the box in which the SNR is defined, in longest diameters."""
_EXTENT_ANGLES = 12  # of each state, at which the size is taken


def build_ensemble(cfg: Specimen, files: list[Atoms]) -> Ensemble:
    """Generate the specimen or take it from files, divide it as its variation asks, and break some of it.

    Parameters
    ----------
    files
        Atoms of ``cfg.model`` or of each of ``cfg.models``; empty for a generated specimen.

    Raises
    ------
    EmflowError
        If the settings contradict each other, or the specimen cannot be divided so.
    """
    ensemble = _whole(cfg, files)
    if cfg.broken_fraction == 0:
        return ensemble
    zero = Conformations(
        torch.zeros(1, dtype=torch.long), torch.zeros(1, ensemble.n_angles, dtype=torch.float64)
    )
    found = break_particles(ensemble.atoms(zero), cfg.seed)
    broken = tuple((kind, len(ensemble.bodies) + i) for i, (kind, _) in enumerate(found))
    bodies = ensemble.bodies + tuple(atoms for _, atoms in found)
    return replace(ensemble, bodies=bodies, broken=broken, broken_fraction=cfg.broken_fraction)


def _whole(cfg: Specimen, files: list[Atoms]) -> Ensemble:
    """The specimen in all its states, unbroken."""
    varies = cfg.n_angles > 0 or cfg.n_compositions > 1
    if len(cfg.models) > 0:
        if varies:
            raise EmflowError(
                "simulate: models are the states themselves; leave n_angles 0, n_compositions 1."
            )
        whole = [impose_symmetry(atoms, cfg.symmetry, pack=False) for atoms in files]
        bodies = tuple(atoms.moved(np.eye(3), -whole[0].centre) for atoms in whole)  # one frame for all
        return Ensemble(bodies, tuple(State(i) for i in range(len(bodies))), _populations(cfg, len(bodies)))
    if not varies:
        _populations(cfg, 1)
        return Ensemble.rigid(_reference(cfg, files))
    if cfg.symmetry != "C1":
        raise EmflowError(
            f"simulate: a specimen of symmetry {cfg.symmetry} would lose it by moving or lacking a domain; "
            "set sample.symmetry to C1, or give the states as models."
        )
    atoms = divide(_reference(cfg, files), cfg.n_domains, cfg.seed)
    assert atoms.domain is not None
    moving: set[int] = set()
    motion = None
    if cfg.n_angles:
        ranges = np.array([cfg.angle_range_deg, cfg.second_angle_range_deg][: cfg.n_angles])
        chosen, pivot, axes = choose_motion(atoms, cfg.moving_fraction, ranges)
        moving, motion = set(chosen), Motion(pivot, axes, ranges, cfg.angle_distribution == "normal")
    found: dict[tuple[int, ...], int] = {}
    states = []
    for present in compositions(atoms, cfg.n_compositions):
        rest, moved = tuple(d for d in present if d not in moving), tuple(d for d in present if d in moving)
        numbers = [found.setdefault(domains, len(found)) for domains in (rest, moved) if domains]
        states.append(State(*numbers))
    bodies = tuple(atoms.taken(np.isin(atoms.domain, domains)) for domains in found)
    return Ensemble(bodies, tuple(states), _populations(cfg, len(states)), motion)


def extent(ensemble: Ensemble) -> tuple[float, float]:
    """Longest diameter and longest radius over all states and angles, in ångström."""
    if not ensemble.varies:
        return longest_diameter(ensemble.bodies[0]), longest_radius(ensemble.bodies[0])
    conformations, _ = ensemble.spread(_EXTENT_ANGLES)
    every = [ensemble.atoms(conformations[i : i + 1]) for i in range(len(conformations))]
    return max(map(longest_diameter, every)), max(map(longest_radius, every))


def box_side(diameter_angstrom: float, radius_angstrom: float, pixel: float) -> int:
    """Even side of the box in which projections lie and the SNR is defined: 1.5 diameters, or what it takes."""
    side = max(BOX_DIAMETERS * diameter_angstrom, 2 * radius_angstrom + 30)
    return 2 * math.ceil(side / pixel / 2)


def _populations(cfg: Specimen, number: int) -> np.ndarray:
    """Fractions of the states."""
    given = np.array(cfg.populations or [1.0] * number, dtype=float)
    if len(given) != number or (given < 0).any() or given.sum() <= 0:
        raise EmflowError(
            f"simulate: populations {list(cfg.populations)} for {number} states; expected as many numbers, none "
            "negative and not all 0 (or none at all for equal populations)."
        )
    return given / given.sum()


def _reference(cfg: Specimen, files: list[Atoms]) -> Atoms:
    """The whole specimen, its symmetry imposed, centred."""
    if files:  # a symmetric one moves along its axis
        return impose_symmetry(files[0], cfg.symmetry, pack=False).centred()
    rng = np.random.default_rng(cfg.seed)
    if cfg.symmetry == "C1":
        diameter = cfg.diameter_angstrom or DEFAULT_DIAMETER_ANGSTROM
        return generate_specimen(cfg.mass_kda, diameter, cfg.n_domains, rng)
    compact = 3.0 * np.cbrt(cfg.mass_kda * 1e3 / 0.6 * 3 / (4 * np.pi))  # 1.5 times a sphere's
    unit = generate_specimen(cfg.mass_kda, compact, cfg.n_domains, rng)
    return impose_symmetry(unit, cfg.symmetry, pack=True).centred()

"""A specimen of our own: unequal domains of packed helices and strands, compact and asymmetrical."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import ConvexHull, KDTree
from scipy.spatial.distance import pdist

from emflow.em.symmetry import symmetry_operators
from emflow.simulate.fold import fill
from emflow.simulate.structure import ELECTRONS, RESIDUE_MASS_DA

_DENSITY_DA_PER_ANGSTROM3 = 0.6  # a first guess of the packing's; corrected by rebuilding
_CANDIDATES = 300
_REBUILDS = 14
_CLOSE_ENOUGH = 0.015  # relative errors of mass and diameter together
_CONTACT_ANGSTROM = 4.5


@dataclass(frozen=True)
class Atoms:
    """Atoms or pseudo-atoms.

    Positions (N, 3) as x, y, z in ångström; electrons (N,), hydrogens included; blur (N,), an extra
    Gaussian deviation in ångström (of a side chain's centroid); domain (N,), the number of each atom's domain,
    None where it has no domains.
    """

    position: np.ndarray
    electrons: np.ndarray
    blur_angstrom: np.ndarray
    domain: np.ndarray | None = None

    def moved(self, rotation: np.ndarray, shift: np.ndarray) -> Atoms:
        """Return a copy turned by a matrix, then shifted."""
        return replace(self, position=self.position @ rotation.T + shift)

    def taken(self, which: np.ndarray) -> Atoms:
        """Return some of the atoms (a mask or indices)."""
        domain = None if self.domain is None else self.domain[which]
        return Atoms(self.position[which], self.electrons[which], self.blur_angstrom[which], domain)

    @property
    def centre(self) -> np.ndarray:
        """Centre of mass, (3,), ångström."""
        return np.average(self.position, axis=0, weights=self.electrons)

    def centred(self) -> Atoms:
        """Return a copy with its centre of mass at the origin."""
        return self.moved(np.eye(3), -self.centre)

    @property
    def mass_kda(self) -> float:
        """Mass, from the electrons (a protein has 58 a residue of 110 Da)."""
        return float(self.electrons.sum() * RESIDUE_MASS_DA / ELECTRONS.sum()) / 1e3


def longest_diameter(atoms: Atoms) -> float:
    """Largest distance between two atoms, in ångström."""
    position = atoms.position
    corners = position[ConvexHull(position).vertices] if len(position) > 50 else position
    return float(pdist(corners).max())


def longest_radius(atoms: Atoms) -> float:
    """Largest distance of an atom from the origin, in ångström."""
    return float(np.linalg.norm(atoms.position, axis=1).max())


def generate_specimen(
    mass_kda: float, diameter_angstrom: float, n_domains: int, rng: np.random.Generator
) -> Atoms:
    """Return a specimen of about the given mass and longest diameter, centred.

    The domains' volumes fall geometrically; each domain touches an earlier one; of many arrangements
    the one whose longest diameter comes nearest is built, then rebuilt at the right mass.
    """
    fraction = 0.7 ** np.arange(n_domains)
    fraction /= fraction.sum()
    stretch = np.exp(rng.uniform(-0.25, 0.25, (n_domains, 3)))
    stretch /= np.cbrt(stretch.prod(axis=1, keepdims=True))
    fill_seed = int(rng.integers(2**31))
    seeds = rng.integers(2**31, size=_CANDIDATES)
    volume, target = mass_kda * 1e3 / _DENSITY_DA_PER_ANGSTROM3, diameter_angstrom
    tried: list[tuple[float, Atoms]] = []
    for _ in range(_REBUILDS):
        radius = np.cbrt(fraction * volume * 3 / (4 * np.pi))
        found = [_arrange(radius, np.random.default_rng(seed)) for seed in seeds]
        best = int(np.argmin([abs(extent - target) for _, extent in found]))
        residues, domain = fill(found[best][0], radius[:, None] * stretch, np.random.default_rng(fill_seed))
        atoms = _atoms(residues, domain, np.random.default_rng(fill_seed))
        actual = longest_diameter(atoms)
        tried.append((abs(atoms.mass_kda / mass_kda - 1) + abs(actual / diameter_angstrom - 1), atoms))
        if tried[-1][0] < _CLOSE_ENOUGH:
            break
        volume *= mass_kda / atoms.mass_kda
        target = found[best][1] + diameter_angstrom - actual
    return min(tried, key=lambda item: item[0])[1].centred()


def _atoms(residues: np.ndarray, domain: np.ndarray, rng: np.random.Generator) -> Atoms:
    electrons = np.tile(ELECTRONS, (len(residues), 1))
    electrons[:, 5] *= rng.uniform(0.1, 1.9, len(residues))  # from glycine to tryptophan
    blur = np.tile([0.0, 0.0, 0.0, 0.0, 0.0, 1.2], (len(residues), 1))
    domains = np.repeat(domain, residues.shape[1])
    return Atoms(residues.reshape(-1, 3), electrons.reshape(-1), blur.reshape(-1), domains)


def _arrange(radius: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Place spheres, each touching an earlier one; return centres and longest diameter."""
    centres = np.zeros((len(radius), 3))
    for i in range(1, len(radius)):
        for _ in range(200):
            other = rng.integers(i)
            direction = rng.standard_normal(3)
            direction /= np.linalg.norm(direction)
            centre = centres[other] + direction * 0.85 * (radius[i] + radius[other])
            if (np.linalg.norm(centres[:i] - centre, axis=1) > 0.8 * (radius[:i] + radius[i])).all():
                break
        centres[i] = centre
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    return centres, float((apart + radius[:, None] + radius[None]).max())


def impose_symmetry(unit: Atoms, symmetry: str, pack: bool) -> Atoms:
    """Copy an asymmetric unit about the axes of a point group.

    Parameters
    ----------
    pack
        Move the unit (centred) away from the axes, just so far that no two copies touch; else leave it
        where it is.
    """
    operators = symmetry_operators(symmetry).numpy()
    if len(operators) == 1:
        return unit
    if pack:
        unit = unit.moved(np.eye(3), _packing_shift(unit, operators, symmetry))
    copies = [unit.moved(g, np.zeros(3)) for g in operators]
    return Atoms(
        np.concatenate([c.position for c in copies]),
        np.tile(unit.electrons, len(copies)),
        np.tile(unit.blur_angstrom, len(copies)),
    )


def _packing_shift(unit: Atoms, operators: np.ndarray, symmetry: str) -> np.ndarray:
    """Smallest shift along one direction off all axes that keeps the copies apart (by bisection)."""
    direction = np.array([1.0, 0.0, 0.0]) if symmetry[0] == "C" else np.array([0.55, 0.25, 0.8])
    direction /= np.linalg.norm(direction)
    tree = KDTree(unit.position)

    def touches(distance: float) -> bool:
        shift = distance * direction
        others = ((unit.position + shift) @ g.T - shift for g in operators[1:])
        return any(
            np.isfinite(tree.query(o, distance_upper_bound=_CONTACT_ANGSTROM)[0]).any() for o in others
        )

    low, high = 0.0, longest_diameter(unit)
    while touches(high):
        high *= 2
    for _ in range(12):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if touches(middle) else (low, middle)
    return high * direction

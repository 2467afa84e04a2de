"""A specimen of our own: unequal domains of packed helices and strands, compact and asymmetrical."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from emflow.simulate.config import SimulateSession
from emflow.simulate.structure import ATOMS_PER_RESIDUE, ELECTRONS, RESIDUE_MASS_DA, alpha_helix, beta_strand

HELIX_SPACING_ANGSTROM = 9.8
STRAND_SPACING_ANGSTROM = 4.8
SHEET_SPACING_ANGSTROM = 10.0
_DENSITY_DA_PER_ANGSTROM3 = 0.75  # of the packing below; corrected by rebuilding
_CANDIDATES = 200


@dataclass(frozen=True)
class Atoms:
    """Atoms or pseudo-atoms: positions (N, 3) as x, y, z in ångström; electrons (N,); blur (N,), an extra
    Gaussian deviation in ångström (of a side chain's centroid)."""

    position: np.ndarray
    electrons: np.ndarray
    blur_angstrom: np.ndarray

    def moved(self, rotation: np.ndarray, shift: np.ndarray) -> Atoms:
        """Return a copy turned by a matrix, then shifted."""
        return Atoms(self.position @ rotation.T + shift, self.electrons, self.blur_angstrom)

    def centred(self) -> Atoms:
        """Return a copy with its centre of mass at the origin."""
        centre = np.average(self.position, axis=0, weights=self.electrons)
        return self.moved(np.eye(3), -centre)

    @property
    def mass_da(self) -> float:
        """Mass, from the electrons (a protein has 58 a residue of 110 Da)."""
        return float(self.electrons.sum() * RESIDUE_MASS_DA / ELECTRONS.sum())


def longest_diameter(position: np.ndarray) -> float:
    """Largest distance between two atoms, in ångström."""
    corners = position[ConvexHull(position).vertices] if len(position) > 50 else position
    return float(pdist(corners).max())


def join(parts: list[Atoms]) -> Atoms:
    """Put models together."""
    return Atoms(
        np.concatenate([p.position for p in parts]),
        np.concatenate([p.electrons for p in parts]),
        np.concatenate([p.blur_angstrom for p in parts]),
    )


def generate_specimen(
    mass_kda: float, diameter_angstrom: float, n_domains: int, rng: np.random.Generator
) -> Atoms:
    """Return a specimen of about the given mass and longest diameter, centred.

    The domains' volumes fall geometrically; each domain touches an earlier one; of many arrangements
    the one whose longest diameter comes nearest is built, then rebuilt at the right mass.
    """
    fraction = 0.64 ** np.arange(n_domains)
    fraction /= fraction.sum()
    stretch = np.exp(rng.uniform(-0.2, 0.2, (n_domains, 3)))
    stretch /= np.cbrt(stretch.prod(axis=1, keepdims=True))
    frames = Rotation.random(n_domains, rng=rng).as_matrix()
    fill_seed = int(rng.integers(2**31))
    arrangements = [rng.integers(2**31) for _ in range(_CANDIDATES)]
    volume = mass_kda * 1e3 / _DENSITY_DA_PER_ANGSTROM3
    for _ in range(4):
        radius = np.cbrt(fraction * volume * 3 / (4 * np.pi))
        found = [_arrange(radius, np.random.default_rng(seed)) for seed in arrangements]
        miss = [abs(extent - diameter_angstrom) for _, extent in found]
        centres = found[int(np.argmin(miss))][0]
        arrangements = [arrangements[int(np.argmin(miss))]]
        atoms = _fill(centres, radius[:, None] * stretch, frames, np.random.default_rng(fill_seed))
        volume *= mass_kda * 1e3 / atoms.mass_da
    return atoms.centred()


def make_specimen(cfg: SimulateSession, diameter_angstrom: float) -> Atoms:
    """Return the specimen that the settings ask for: generated or from a file, symmetry imposed, centred."""
    if cfg.model is not None:
        from emflow.io.atoms import read_atoms

        position, electrons = read_atoms(cfg.model)
        unit = Atoms(position, electrons, np.zeros(len(electrons)))
    else:
        unit = generate_specimen(
            cfg.mass_kda, diameter_angstrom, cfg.n_domains, np.random.default_rng(cfg.seed)
        )
    return unit.centred()


def _arrange(radius: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Place spheres, each touching an earlier one without overlap; return centres and longest diameter."""
    centres = np.zeros((len(radius), 3))
    for i in range(1, len(radius)):
        for _ in range(200):
            other = rng.integers(i)
            direction = rng.standard_normal(3)
            direction /= np.linalg.norm(direction)
            centre = centres[other] + direction * 0.93 * (radius[i] + radius[other])
            if (np.linalg.norm(centres[:i] - centre, axis=1) > 0.85 * (radius[:i] + radius[i])).all():
                break
        centres[i] = centre
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    return centres, float((apart + radius[:, None] + radius[None]).max())


def _fill(centres: np.ndarray, radii: np.ndarray, frames: np.ndarray, rng: np.random.Generator) -> Atoms:
    """Fill ellipsoids with helix bundles (two of three) and sheet sandwiches; a residue belongs to the
    ellipsoid in which it lies deepest."""
    parts = []
    for i in range(len(centres)):
        local = _sheets(radii[i], rng) if i % 3 == 1 else _bundle(radii[i], rng)
        if not len(local):
            continue
        residues = local @ frames[i].T + centres[i]
        alpha = residues[:, 1]
        depth = [
            np.linalg.norm((alpha - c) @ f / r, axis=1)
            for c, f, r in zip(centres, frames, radii, strict=True)
        ]
        residues = residues[(np.argmin(depth, axis=0) == i) & (depth[i] < 1)]
        parts.append(residues)
    residues = np.concatenate(parts)
    electrons = np.tile(ELECTRONS, (len(residues), 1))
    electrons[:, 5] *= rng.uniform(0.1, 1.9, len(residues))  # from glycine to tryptophan
    blur = np.tile([0.0, 0.0, 0.0, 0.0, 0.2, 1.2], (len(residues), 1))
    return Atoms(residues.reshape(-1, 3), electrons.reshape(-1), blur.reshape(-1))


def _bundle(radii: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Helices on a hexagonal lattice along z, each up to 26 residues, filling an ellipsoid."""
    reach = int(np.ceil(radii.max() / HELIX_SPACING_ANGSTROM)) * 2
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    offset = rng.uniform(-0.5, 0.5, 2)
    x = ((i + 0.5 * (j % 2) + offset[0]) * HELIX_SPACING_ANGSTROM).ravel()
    y = ((j * np.sqrt(0.75) + offset[1]) * HELIX_SPACING_ANGSTROM).ravel()
    return _columns(x, y, radii, alpha_helix, (26, 1.5, 6.0, 5), rng)


def _sheets(radii: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Strands in stacked sheets along z, each up to 11 residues, filling an ellipsoid."""
    reach = int(np.ceil(radii.max() / STRAND_SPACING_ANGSTROM)) + 1
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    offset = rng.uniform(-0.5, 0.5, 2)
    x = ((i + offset[0]) * SHEET_SPACING_ANGSTROM).ravel()
    y = ((j + offset[1]) * STRAND_SPACING_ANGSTROM).ravel()
    return _columns(x, y, radii, beta_strand, (11, 3.3, 5.0, 4), rng)


def _columns(x, y, radii, element, rule, rng):  # type: ignore[no-untyped-def]
    """Cut the columns at (x, y) through an ellipsoid into elements; jitter each a little."""
    longest, rise, gap, shortest = rule
    inside = 1 - (x / radii[0]) ** 2 - (y / radii[1]) ** 2
    out = []
    for cx, cy, depth in zip(x, y, inside, strict=True):
        if depth <= 0:
            continue
        half = radii[2] * np.sqrt(depth)
        z = -half + rng.uniform(0, gap)
        while True:
            n = int(min((half - z) / rise, rng.integers(longest // 2, longest + 1)))
            if n < shortest:
                break
            piece = element(n)
            if element is alpha_helix:
                piece = piece @ Rotation.from_euler("z", rng.uniform(0, 360), degrees=True).as_matrix().T
            if rng.random() < 0.5:  # antiparallel
                piece = piece * np.array([1.0, -1.0, -1.0])
            tilt = Rotation.from_rotvec(np.deg2rad([*rng.normal(0, 3.5, 2), 0.0])).as_matrix()
            centre = np.array([cx, cy, z + 0.5 * n * rise]) + rng.normal(0, 0.5, 3)
            out.append(piece @ tilt.T + centre)
            z += n * rise + gap
    return np.concatenate(out) if out else np.zeros((0, ATOMS_PER_RESIDUE, 3))

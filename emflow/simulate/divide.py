"""Divide a specimen: which domain moves, about which axes, and which compositions there are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from emflow.simulate.specimen import Atoms
from emflow.step import EmflowError

_CONTACT_ANGSTROM = 7.0
_CLASH_ANGSTROM = 4.0
_LINKER_ANGSTROM = 12.0
"""So near to the pivot atoms may touch: it is the linker."""
_SAMPLE = 250  # atoms that are tried for clashes
_AXES = 40
_ANGLES = 9
_LARGEST_MOVING = 3  # domains
_CANDIDATES = 5  # moving sets whose axes are tried
_CLASH_COST_ANGSTROM = 500.0
"""How much movement is given up for a clash of all atoms."""
_MASS_COST_ANGSTROM = 200.0
"""How much movement is given up for a mass that is wrong by the whole specimen."""


def divide(atoms: Atoms, n_domains: int, seed: int) -> Atoms:
    """Give atoms without domains compact ones: k-means of their positions."""
    if atoms.domain is not None:
        return atoms
    rng = np.random.default_rng(seed)
    _, label = kmeans2(atoms.position, n_domains, minit="++", rng=rng, missing="raise")
    order = np.argsort(-np.bincount(label, atoms.electrons, n_domains), kind="stable")  # the heaviest first
    return Atoms(atoms.position, atoms.electrons, atoms.blur_angstrom, np.argsort(order)[label])


def contacts(atoms: Atoms) -> np.ndarray:
    """Which domains touch: boolean (D, D)."""
    domain = _domain(atoms)
    trees = [KDTree(atoms.position[domain == d]) for d in range(int(domain.max()) + 1)]
    near = [[a is b or a.count_neighbors(b, _CONTACT_ANGSTROM) > 0 for b in trees] for a in trees]
    return np.array(near)


def compositions(atoms: Atoms, number: int) -> list[list[int]]:
    """Which domains the states have: the first all, the next lack one each (the largest first), then two, …

    The heaviest domain is always there, and what is left always hangs together.

    Raises
    ------
    EmflowError
        If there are not so many.
    """
    domain = _domain(atoms)
    mass = np.bincount(domain, atoms.electrons)
    touch, everything = contacts(atoms), set(range(len(mass)))
    optional = sorted(everything - {int(mass.argmax())}, key=lambda d: -mass[d])
    found = [sorted(everything)]
    for size in range(1, len(optional) + 1):
        for absent in combinations(optional, size):
            if len(found) == number:
                return found
            left = everything - set(absent)
            if _connected(touch, left):
                found.append(sorted(left))
    if len(found) < number:
        raise EmflowError(
            f"simulate: {len(mass)} domains have {len(found)} compositions that hang together, not {number}; "
            "raise n_domains or lower compositions."
        )
    return found


def choose_motion(
    atoms: Atoms, moving_fraction: float, range_deg: np.ndarray
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Choose the domains that move, and axes about which they move far without running into the rest.

    Candidates are connected sets of up to three domains whose removal leaves the rest connected. The axes
    pass through the middle of the contact.

    Parameters
    ----------
    moving_fraction
        Of the mass.
    range_deg
        Whole range of each angle, (K,), K 1 or 2.

    Returns
    -------
    Domains that move, pivot (3,) in ångström, axes (K, 3).
    """
    domain = _domain(atoms)
    mass = np.bincount(domain, atoms.electrons)
    mass = mass / mass.sum()
    touch, everything = contacts(atoms), set(range(len(mass)))
    rest = sorted(everything - {int(mass.argmax())})
    sets = [
        chosen
        for size in range(1, _LARGEST_MOVING + 1)
        for chosen in combinations(rest, size)
        if _connected(touch, set(chosen)) and _connected(touch, everything - set(chosen))
    ]
    if not sets:
        raise EmflowError("simulate: a specimen of one domain has none that could move; raise n_domains.")
    sets.sort(key=lambda s: (abs(mass[list(s)].sum() - moving_fraction), s))
    best: tuple[float, list[int], np.ndarray, np.ndarray] | None = None
    for chosen in sets[:_CANDIDATES]:
        moves = np.isin(domain, chosen)
        pivot = _linker(atoms.position[moves], atoms.position[~moves])
        score, axes = _choose_axes(atoms.position[moves], atoms.position[~moves], pivot, range_deg)
        score -= _MASS_COST_ANGSTROM * abs(mass[list(chosen)].sum() - moving_fraction)
        if best is None or score > best[0]:
            best = (score, list(chosen), pivot, axes)
    assert best is not None
    return best[1:]


def _domain(atoms: Atoms) -> np.ndarray:
    return np.zeros(len(atoms.electrons), dtype=int) if atoms.domain is None else atoms.domain


def _connected(touch: np.ndarray, among: set[int]) -> bool:
    reached, front = set(), [min(among)]
    while front:
        here = front.pop()
        reached.add(here)
        front += [d for d in among - reached if touch[here, d]]
    return reached == among


def _linker(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Middle of the contact: mean over the nearest hundredth of the moving atoms and their neighbours."""
    distance, neighbour = KDTree(fixed).query(moving)
    near = np.argsort(distance, kind="stable")[: max(3, len(moving) // 100)]
    return 0.5 * (moving[near] + fixed[neighbour[near]]).mean(axis=0)


def _choose_axes(
    moving: np.ndarray, fixed: np.ndarray, pivot: np.ndarray, range_deg: np.ndarray
) -> tuple[float, np.ndarray]:
    """Axes with the largest movement (rms, Å) less the cost of clashes; one by one, each normal to the first."""
    tree = KDTree(fixed - pivot)
    points = (moving - pivot)[:: max(1, len(moving) // _SAMPLE)]
    index = np.arange(_AXES) + 0.5
    z = 1 - index / _AXES  # a half sphere, evenly (golden angle)
    turn = np.pi * (1 + 5**0.5) * index
    candidates = np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], 1)
    axes: list[np.ndarray] = []
    total = 0.0
    for width in range_deg:
        angles = (np.arange(_ANGLES) + 0.5) / _ANGLES * width - width / 2
        scores = []
        for axis in candidates:
            turned = Rotation.from_rotvec(np.deg2rad(angles)[:, None] * axis).as_matrix() @ points.T
            turned = turned.transpose(0, 2, 1)
            moved = np.sqrt(((turned - points) ** 2).sum(-1).mean())
            away = np.linalg.norm(points, axis=1) > _LINKER_ANGSTROM
            near = tree.query(turned[:, away].reshape(-1, 3), distance_upper_bound=_CLASH_ANGSTROM)[0]
            scores.append(moved - _CLASH_COST_ANGSTROM * np.isfinite(near).mean())
        best = int(np.argmax(scores))
        total += scores[best]
        axes.append(candidates[best])
        side = np.cross(axes[0], candidates)
        length = np.linalg.norm(side, axis=1)
        candidates = side[length > 0.1] / length[length > 0.1, None]
    return total / len(range_deg), np.array(axes)

"""Point groups of rotations, with RELION's axes."""

from __future__ import annotations

import functools
import math
import re

import numpy as np
import torch
from torch import Tensor

from emflow.step import EmflowError

_GOLDEN = (1 + math.sqrt(5)) / 2
_Generator = tuple[int, tuple[float, float, float]]


def _generators(symmetry: str) -> list[_Generator]:
    """Folds and axes (x, y, z) as RELION's ``symmetries.cpp`` sets them; I is its I2 (222 setting)."""
    match = re.fullmatch(r"([CD])([1-9]\d?)|[TOI]", symmetry)
    if match is None:
        raise EmflowError(f"symmetry '{symmetry}' is not known; expected C1, Cn, Dn, T, O or I.")
    if match[1] is not None:
        main: _Generator = (int(match[2]), (0, 0, 1))
        return [main] if match[1] == "C" else [main, (2, (1, 0, 0))]
    polyhedral: dict[str, list[_Generator]] = {
        "T": [(3, (0, 0, 1)), (2, (0, math.sqrt(2), 1))],
        "O": [(3, (1, 1, 1)), (4, (0, 0, 1))],
        "I": [(2, (0, 0, 1)), (5, (1, 0, _GOLDEN)), (3, (0, 1, _GOLDEN**2))],
    }
    return polyhedral[symmetry]


def _rotation(fold: int, axis: tuple[float, float, float]) -> np.ndarray:
    """Matrix of the rotation by 360°/fold about an axis (Rodrigues)."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = 2 * math.pi / fold
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


@functools.lru_cache(maxsize=32)
def _closure(symmetry: str) -> np.ndarray:
    return np.stack(_generated([_rotation(fold, axis) for fold, axis in _generators(symmetry)]))


def symmetry_operators(symmetry: str) -> Tensor:
    """Rotations of a point group, the identity first.

    Parameters
    ----------
    symmetry
        C1, Cn, Dn, T, O or I. Axes as in RELION: n-fold along z and two-fold along x; T with a three-fold
        along z; O with four-folds along x, y, z; I (= I2) with two-folds along x, y, z.

    Returns
    -------
    Shape (order, 3, 3), float64; the order is n, 2n, 12, 24 or 60. An orientation A and A·g are the same
    view of the particle for every g.

    Raises
    ------
    EmflowError
        If the group is unknown.
    """
    return torch.from_numpy(_closure(symmetry).copy())


@functools.lru_cache(maxsize=32)
def _split(symmetry: str) -> tuple[np.ndarray, np.ndarray]:
    group = _closure(symmetry)
    is_axis = np.isclose(np.abs(group), np.round(np.abs(group)), atol=1e-6).all(axis=(1, 2))
    axis = np.round(group[is_axis])
    left = list(group)
    cosets = []
    while left:
        first = left[0]
        cosets.append(first)
        members = first @ axis
        left = [g for g in left if not any(np.allclose(g, m, atol=1e-6) for m in members)]
    return np.stack(cosets), axis


def split_operators(symmetry: str) -> tuple[Tensor, Tensor]:
    """The group as products c·h: h permute and flip the axes of a grid, c do the rest.

    Summing a volume over the h costs no interpolation, so only one slice per c has to be inserted into
    a reconstruction: 1 instead of 24 for O, 15 instead of 60 for I.

    Returns
    -------
    (cosets, 3, 3) and (permutations, 3, 3), float64; their numbers multiply to the group's order.
    """
    cosets, axis = _split(symmetry)
    return torch.from_numpy(cosets.copy()), torch.from_numpy(axis.copy())


def sum_over_axis_operators(grid: Tensor, operators: Tensor) -> Tensor:
    """Sum a grid over rotations that permute and flip its axes: Σ_h grid(h·k), exactly.

    Parameters
    ----------
    grid
        Shape (..., s, s, s), axes (z, y, x), s odd, centre s//2.
    operators
        Shape (H, 3, 3), signed permutations in x, y, z.
    """
    if len(operators) == 1:
        return grid
    total = torch.zeros_like(grid)
    for operator in operators.round().to(torch.int64).tolist():
        # row i of h says which axis of k feeds argument i, and with what sign
        source = [next(j for j in range(3) if row[j]) for row in operator]
        flips = [grid.ndim - 1 - i for i in range(3) if operator[i][source[i]] < 0]
        turned = grid.flip(flips) if flips else grid
        lead = grid.ndim - 3
        order = [0, 0, 0]
        for argument, axis in enumerate(source):
            order[2 - axis] = 2 - argument  # x, y, z are the last, middle and first axis
        total += turned.permute(*range(lead), *(lead + o for o in order))
    return total


@functools.lru_cache(maxsize=32)
def _chain(symmetry: str) -> list[np.ndarray]:
    axis = list(_split(symmetry)[1])
    links, known = [], [np.eye(3)]
    while len(known) < len(axis):
        best: list[np.ndarray] = axis
        for member in axis:
            if not _holds(known, member):
                grown = _generated([*known, member])
                best = grown if len(grown) < len(best) else best
        cosets: list[np.ndarray] = []
        for member in best:
            if not any(_holds(known, member @ coset.T) for coset in cosets):
                cosets.append(member)
        links.append(np.stack(cosets))
        known = best
    return links


def _holds(members: list[np.ndarray], wanted: np.ndarray) -> bool:
    return any(np.allclose(member, wanted, atol=1e-6) for member in members)


def _generated(members: list[np.ndarray]) -> list[np.ndarray]:
    """The group that some rotations generate."""
    group = [np.eye(3)]
    for known in group:  # grows while it is walked, until every product is known
        for member in members:
            if not _holds(group, member @ known):
                group.append(member @ known)
    return group


def axis_operator_links(symmetry: str) -> list[Tensor]:
    """The operators that permute and flip axes as a product of short sums, along a chain of subgroups.

    :func:`sum_over_axis_operators` over one link after the other is the sum over all: 5 additions instead of 23
    for O.

    Returns
    -------
    Coset representatives (H, 3, 3), float64, of each subgroup in the next.
    """
    return [torch.from_numpy(link.copy()) for link in _chain(symmetry)]


def in_asymmetric_unit(rotations: Tensor, symmetry: str) -> Tensor:
    """Whether each orientation is the representative of its symmetry-equivalent ones.

    Of A·g over the group, the one nearest to the identity represents all.

    Parameters
    ----------
    rotations
        Shape (N, 3, 3).

    Returns
    -------
    Boolean, shape (N,); about N divided by the group's order are true.
    """
    operators = symmetry_operators(symmetry).to(rotations)
    # trace(A·g) for all g; ties (on a boundary) keep both
    traces = torch.einsum("nij,gji->ng", rotations, operators)
    return traces[:, 0] >= traces.max(1).values - 1e-6


def to_asymmetric_unit(rotations: Tensor, symmetry: str) -> Tensor:
    """The representatives of orientations: shape (N, 3, 3) → (N, 3, 3)."""
    operators = symmetry_operators(symmetry).to(rotations)
    best = torch.einsum("nij,gji->ng", rotations, operators).argmax(1)
    return rotations @ operators[best]


def frame_choices(symmetry: str, spacing_deg: float = 1.0) -> Tensor | None:
    """Rotations that map a group's axes onto themselves: the frames between which data cannot choose.

    Two maps of one group, found independently, differ by one of these (and perhaps by the hand).

    Returns
    -------
    Shape (N, 3, 3), float64; the turn about the axis of Cn is sampled at ``spacing_deg``. None for C1,
    where every rotation is possible.
    """
    if symmetry == "C1":
        return None
    if symmetry in ("O", "I"):
        return symmetry_operators(symmetry)[:1]
    if symmetry == "T":  # a four-fold along a two-fold axis maps T onto itself
        return torch.stack([torch.eye(3).double(), torch.from_numpy(_rotation(4, (0, math.sqrt(2), 1)))])
    fold = int(symmetry[1:])
    if symmetry == "D2":  # any renaming of three like axes
        return symmetry_operators("O")
    if symmetry[0] == "D":
        turns = [0.0, math.pi / fold] if fold > 1 else list(np.deg2rad(np.arange(0, 360, spacing_deg)))
        about_z = [_rotation_z(angle) for angle in turns]
        if fold == 1:  # D1 is C2 about x
            swap = _rotation(4, (0, 1, 0))
            about_z = [swap @ turn @ swap.T for turn in about_z]
            flip = _rotation(2, (0, 0, 1))
            about_z = [m for turn in about_z for m in (turn, turn @ flip)]
        return torch.from_numpy(np.stack(about_z))
    angles = np.deg2rad(np.arange(0, 360 / fold, spacing_deg))
    flip = _rotation(2, (1, 0, 0))
    return torch.from_numpy(np.stack([m for a in angles for m in (_rotation_z(a), _rotation_z(a) @ flip)]))


def _rotation_z(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])

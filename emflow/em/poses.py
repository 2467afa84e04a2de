"""Orientations: RELION's Euler angles, matrices and unit quaternions, for whole stacks at once.

Everywhere in emflow a pose is a matrix A with r_image = A·r_object (x, y, z), A = Rz(ψ)·Ry(θ)·Rz(φ) of
RELION's ``Euler_angles2matrix`` for rlnAngleRot φ, rlnAngleTilt θ, rlnAnglePsi ψ; with scipy,
``Rotation.from_euler("ZYZ", [rot, tilt, psi], degrees=True).inv().as_matrix()``.
Quaternions are (w, x, y, z) of the matrix A, so that q(A·B) = q(A) q(B).
"""

from __future__ import annotations

import torch
from torch import Tensor


def euler_to_matrix(angles_deg: Tensor) -> Tensor:
    """Matrices A of RELION's angles.

    Parameters
    ----------
    angles_deg
        Shape (..., 3): rlnAngleRot, rlnAngleTilt, rlnAnglePsi in degrees.

    Returns
    -------
    Shape (..., 3, 3).
    """
    c = torch.cos(torch.deg2rad(angles_deg))
    s = torch.sin(torch.deg2rad(angles_deg))
    (ca, cb, cg), (sa, sb, sg) = c.unbind(-1), s.unbind(-1)
    rows = [
        cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb,
        -sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb,
        sb * ca, sb * sa, cb,
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(*angles_deg.shape[:-1], 3, 3)


def matrix_to_euler(rotations: Tensor) -> Tensor:
    """RELION's angles (rot, tilt, psi) of matrices A, in degrees.

    Shape (..., 3, 3) → (..., 3); tilt in [0, 180]. Where the tilt is 0 or 180 only ψ ± φ is determined:
    then rot is 0, as RELION writes it.
    """
    a = rotations
    sine = torch.sqrt(a[..., 0, 2] ** 2 + a[..., 1, 2] ** 2)
    tilt = torch.atan2(sine, a[..., 2, 2])
    pole = sine < 1e-6 if a.dtype == torch.float64 else sine < 1e-4
    rot = torch.atan2(a[..., 2, 1], a[..., 2, 0])
    psi = torch.atan2(a[..., 1, 2], -a[..., 0, 2])
    up = torch.sign(a[..., 2, 2])
    psi = torch.where(pole, torch.atan2(-up * a[..., 1, 0], up * a[..., 0, 0]), psi)
    return torch.rad2deg(torch.stack([torch.where(pole, torch.zeros_like(rot), rot), tilt, psi], -1))


def quaternion_to_matrix(quaternions: Tensor) -> Tensor:
    """Matrices of unit quaternions (w, x, y, z): shape (..., 4) → (..., 3, 3)."""
    w, x, y, z = quaternions.unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(*quaternions.shape[:-1], 3, 3)


def matrix_to_quaternion(rotations: Tensor) -> Tensor:
    """Unit quaternions (w, x, y, z) with w ≥ 0 of matrices: shape (..., 3, 3) → (..., 4).

    The largest component is taken first, so no small number is divided by (Shepperd 1978).
    """
    m = rotations
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = (
        m[..., 2, 1] - m[..., 1, 2],
        m[..., 0, 2] - m[..., 2, 0],
        m[..., 1, 0] - m[..., 0, 1],
    )
    xy, xz, yz = (
        m[..., 0, 1] + m[..., 1, 0],
        m[..., 0, 2] + m[..., 2, 0],
        m[..., 1, 2] + m[..., 2, 1],
    )
    # four times the outer product of the quaternion with itself; any non-zero row is the quaternion
    outer = torch.stack(
        [
            torch.stack([1 + xx + yy + zz, wx, wy, wz], -1),
            torch.stack([wx, 1 + xx - yy - zz, xy, xz], -1),
            torch.stack([wy, xy, 1 - xx + yy - zz, yz], -1),
            torch.stack([wz, xz, yz, 1 - xx - yy + zz], -1),
        ],
        -2,
    )
    best = torch.diagonal(outer, dim1=-2, dim2=-1).argmax(-1)
    row = torch.gather(outer, -2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    q = row / row.norm(dim=-1, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)


def quaternion_multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product a·b, broadcast over (..., 4): first b, then a, as for matrices."""
    w1, x1, y1, z1 = a.unbind(-1)
    w2, x2, y2, z2 = b.unbind(-1)
    return torch.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        -1,
    )


def rotation_vector_to_matrix(vectors_rad: Tensor) -> Tensor:
    """Matrices of rotation vectors (axis times angle, radian): shape (..., 3) → (..., 3, 3)."""
    angle = vectors_rad.norm(dim=-1, keepdim=True)
    # sin(a/2)/a is smooth through zero: torch.sinc(x) = sin(πx)/(πx)
    half = torch.sinc(angle / (2 * torch.pi)) / 2
    return quaternion_to_matrix(torch.cat([torch.cos(angle / 2), half * vectors_rad], -1))


def angular_distance_deg(a: Tensor, b: Tensor) -> Tensor:
    """Angle of the rotation between matrices, in degrees: broadcast (..., 3, 3) → (...)."""
    # |a − b|² = 8 sin²(angle/2): accurate for small angles, where the trace's arc cosine is not
    chord = (a - b).flatten(-2).norm(dim=-1) / 8**0.5
    return torch.rad2deg(2 * torch.asin(chord.clamp(max=1.0)))


def wrap_degrees(angles_deg: Tensor) -> Tensor:
    """Angles brought to [−180, 180)."""
    return (angles_deg + 180.0) % 360.0 - 180.0


def mirror_rotations(rotations: Tensor) -> Tensor:
    """Poses that make the same images from the inverted volume V(−r).

    V(−r) projected by A′ = Rz(180°)·A equals V projected by A: the hand of a structure is not determined
    by its projections. In RELION's angles, ψ increases by 180°.
    """
    flip = torch.tensor([-1.0, -1.0, 1.0], dtype=rotations.dtype, device=rotations.device)
    return flip[:, None] * rotations

"""What errors of the poses look like: a shift or a turn of the whole map, to first order."""

from __future__ import annotations

import torch
from torch import Tensor


def rigid_motions(volume: Tensor) -> Tensor:
    """Orthonormal volumes that span small shifts along and turns about x, y and z of a map, (6, n³), float64.

    A shift by t changes V(r) by −t·∇V, a turn by ω about the centre by −ω·(r × ∇V).
    """
    n = volume.shape[-1]
    k = 2j * torch.pi * torch.fft.fftfreq(n, device=volume.device, dtype=torch.float64)
    k[n // 2] = 0  # the derivative of Nyquist is not real
    spectrum = torch.fft.fftn(volume.double())
    dz, dy, dx = (torch.fft.ifftn(spectrum * f).real for f in (k[:, None, None], k[:, None], k))
    line = torch.arange(n, device=volume.device, dtype=torch.float64) - n // 2
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    tangents = torch.stack([dx, dy, dz, y * dz - z * dy, z * dx - x * dz, x * dy - y * dx]).flatten(1)
    # of a round map a turn changes nothing: its direction is noise and counts for little
    norms = tangents.norm(dim=1, keepdim=True)
    shifts, turns = norms[:3].amax().clamp(min=1e-30), norms[3:].amax().clamp(min=1e-30)
    scaled = torch.cat([tangents[:3] / shifts, tangents[3:] / turns])
    _, values, directions = torch.linalg.svd(scaled, full_matrices=False)
    return torch.where(values[:, None] > 1e-3 * values[0].clamp(min=1e-30), directions, 0.0)


def rigid_fraction(volumes: Tensor) -> Tensor:
    """Part of each component's power that shifts and turns of the mean explain: (K+1, n, n, n) → (K,)."""
    components = volumes[1:].flatten(1).double()
    explained = (components @ rigid_motions(volumes[0]).T).square().sum(1)
    return (explained / components.square().sum(1).clamp(min=1e-30)).cpu()

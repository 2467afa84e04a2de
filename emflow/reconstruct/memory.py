"""How much memory a reconstruction takes, known before it starts.

What counts at its peak is the Fourier grid that a map is divided on, s³ points with s about twice the box;
particles add little, since they are read in batches. The constants were fitted to measured peaks
(docs/reconstruct.md) and hold for a CPU; on a GPU the same arrays live on the device.
"""

from __future__ import annotations

import logging

import torch

from emflow.device import free_memory_bytes
from emflow.em.slices import grid_half_size
from emflow.step import Execution

log = logging.getLogger("emflow")

_PROGRAM_BYTES = 5.7e8
"""Libraries, a batch of images, the search's buffers."""
_GRID_BYTES = 88
"""Per point of the grid: the sums of both halves (24) and what dividing and transforming one of them takes."""
_PARTICLE_BYTES = 3000
"""Per particle: its row as text while it is read and written, pose, CTF."""


def refine_memory_bytes(box: int, particles: int) -> int:
    """Peak memory of a refinement, in bytes.

    Parameters
    ----------
    box
        Side of the images, in pixels.
    particles
        How many.
    """
    side = 2 * grid_half_size(box // 2 - 1, 2) + 1
    return int(_PROGRAM_BYTES + _GRID_BYTES * side**3 + _PARTICLE_BYTES * particles)


def announce_memory(needed_bytes: int, device: torch.device, execution: Execution) -> None:
    """Log what a run will need; warn where that is more than it may plan with."""
    free = free_memory_bytes(device, execution)
    log.info("About %.1f GB of memory on %s", needed_bytes / 1e9, device)
    if needed_bytes > free:
        log.warning(
            "%.1f GB may be too much: %.1f GB can be planned with. A smaller box or a coarser pixel "
            "(extract.run) needs less, in proportion to the box's volume.",
            needed_bytes / 1e9,
            free / 1e9,
        )

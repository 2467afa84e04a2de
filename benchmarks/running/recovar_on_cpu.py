"""recovar 1.0.5 as it is meant, on a CPU; run by the Python that recovar is installed in.

    PYTHON recovar_on_cpu.py COMMAND WORDS...

Its projector for CPUs (`recovar.core.relion_interp`) takes an image's frequencies for those of the volume, also
where the volume is on a grid that is twice as fine; its projectors for GPUs, and its other paths, multiply them
by the ratio of the two. The mean map, which is made on such a grid, then comes out twice as large. Here the
rotation carries that factor. Nothing else is changed.
"""

import sys

from recovar.command_line import main_commands
from recovar.core import relion_interp

_project, _backproject = relion_interp.project, relion_interp.backproject


def project(volume, rotations, image_shape, volume_shape, *more, **named):
    """Slices of a volume."""
    return _project(
        volume, rotations * (volume_shape[0] // image_shape[0]), image_shape, volume_shape, *more, **named
    )


def backproject(images, rotations, image_shape, volume_shape, *more, **named):
    """The adjoint."""
    return _backproject(
        images, rotations * (volume_shape[0] // image_shape[0]), image_shape, volume_shape, *more, **named
    )


relion_interp.project, relion_interp.backproject = project, backproject
if __name__ == "__main__":
    sys.argv[0] = "recovar"
    main_commands()

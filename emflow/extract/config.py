"""Settings of the extract room."""

from pydantic import Field

from emflow.step import OpticsFacts, SpecimenContrast, SpecimenSize


class Boxes(SpecimenSize, SpecimenContrast, OpticsFacts):
    """What cutting out takes, whatever the particles come from."""

    box_size_px: int = Field(0, ge=0, le=8192, multiple_of=2)
    """Side of the box, in pixels of the micrograph; 0 takes box_diameters, rounded up to a size with a fast FFT."""
    box_diameters: float = Field(1.6, ge=1, le=10)
    """Side of an automatic box, in particle diameters. Defocus spreads fine detail beyond the particle:
    by wavelength × defocus / resolution to each side (74 Å at 300 kV, 1.5 µm and 4 Å)."""
    background_diameters: float = Field(1.1, gt=0, le=10)
    """Mean 0 and deviation 1 hold outside a circle of this diameter, in particle diameters; without a diameter,
    of three quarters of the box."""
    max_outside_fraction: float = Field(0.15, ge=0, le=1)
    """A particle is dropped when more than this part of its box lies outside the micrograph; 1 keeps all (the
    edge's pixels are repeated)."""


class ExtractRun(Boxes):
    """Cut out picked particles, binned for the first map."""

    binned_size_px: int = Field(64, ge=0, le=8192, multiple_of=2)
    """Side of the stored images, in pixels: the box is cropped to it in Fourier space, never enlarged; 0 does not bin."""


class ExtractRecenter(Boxes):
    """Cut particles out again, centred on their refined origins and finer."""

    max_size_px: int = Field(256, ge=16, le=8192, multiple_of=2)
    """Largest side of the stored images, in pixels; larger boxes are cropped to it in Fourier space."""
    resolution_angstrom: float | None = Field(None, gt=0.5, le=100)
    """Resolution that the stored images must still hold, in ångström: they are binned until Nyquist is just finer.
    null does not bin."""


class ExtractJoin(SpecimenSize):
    """Join the shards' particles, those of accepted micrographs."""


STEPS = {"run": ExtractRun, "recenter": ExtractRecenter, "join": ExtractJoin}

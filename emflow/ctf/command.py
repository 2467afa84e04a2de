"""Commands of the CTF room: files in, files out."""

from pathlib import Path

from emflow.ctf.config import CtfFit
from emflow.step import Run


def fit(micrographs: Path, out: Path, /, *, cfg: CtfFit = CtfFit(), run: Run = Run()) -> None:
    """Estimate the CTF of each micrograph.

    Parameters
    ----------
    micrographs
        STAR table, folder, glob (in quotes) or image.
    out
        STAR table to write: RELION's CTF columns, fit resolution, quality.
    """
    raise NotImplementedError

"""The CTF fit on real micrographs of apoferritin (EMPIAR-10146) and ribosome (EMPIAR-10028)."""

from pathlib import Path

import torch

from emflow.ctf.config import CtfFit
from emflow.ctf.fit import fit_ctf
from emflow.io.image import read_image
from emflow.step import OpticsFacts


def test_apoferritin(real_data: Path) -> None:
    """An independent fit found defocus 1.6–2.5 µm, astigmatism 130–1100 Å, rings past 4 Å on most."""
    facts = OpticsFacts(pixel_size_angstrom=1.5, cs_mm=0.0, amplitude_contrast=0.07)
    files = sorted((real_data / "apoferritin").glob("*.tif"))
    assert len(files) == 12
    results = [fit_ctf(torch.from_numpy(read_image(path)), facts, CtfFit()) for path in files]
    assert all(r.reliable for r in results)
    assert sum(r.max_resolution_angstrom < 4 for r in results) >= 10
    assert all(r.max_resolution_angstrom < 6 for r in results)
    for result in results:
        assert 1.6 <= (result.defocus_u_um + result.defocus_v_um) / 2 <= 2.5
        assert 130 <= (result.defocus_u_um - result.defocus_v_um) * 1e4 <= 1100
        assert 110 <= result.defocus_angle_deg <= 140  # one session, one stigmator


def test_wrong_spherical_aberration_fits_worse(real_data: Path) -> None:
    """The microscope was corrected: with 2.7 mm the fine rings run out of phase."""
    image = torch.from_numpy(read_image(real_data / "apoferritin" / "May08_04.33.57.tif"))
    right, wrong = (
        fit_ctf(image, OpticsFacts(pixel_size_angstrom=1.5, cs_mm=cs), CtfFit()) for cs in (0.0, 2.7)
    )
    assert right.max_resolution_angstrom < 0.95 * wrong.max_resolution_angstrom
    assert right.figure_of_merit > wrong.figure_of_merit + 0.02
    assert right.confidence > wrong.confidence

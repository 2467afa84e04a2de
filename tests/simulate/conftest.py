"""A session so small that it takes two seconds, with little noise."""

from __future__ import annotations

from pathlib import Path

import pytest

from emflow.simulate.command import session
from emflow.simulate.config import SimulateSession

TINY = SimulateSession(
    pixel_size_angstrom=5.0,
    diameter_angstrom=110,
    mass_kda=130,
    n_domains=3,
    n_micrographs=2,
    n_noise_micrographs=1,
    micrograph_size_px=320,
    particles_per_micrograph=40,
    snr=4.0,
    n_carbon_micrographs=1,
    aggregates_per_micrograph=1.0,
    defocus_min_um=1.2,
)


@pytest.fixture(scope="session")
def tiny_settings() -> SimulateSession:
    """Settings of the tiny session."""
    return TINY


@pytest.fixture(scope="session")
def tiny_session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny session: two micrographs with particles, the second with carbon, and one without."""
    folder = tmp_path_factory.mktemp("session")
    session(folder, cfg=TINY)
    return folder

"""What the page shows of denoising and heterogeneity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from emflow.figure import figure, png_bytes
from emflow.io.atomic import write_bytes
from emflow.io.mrc import write_mrc
from emflow.io.record import write_metrics
from emflow.io.star import write_star
from emflow.report.command import report
from emflow.report.variation import columns_of, draw_latents, values_of


def write_variation(results: Path, count: int = 40) -> None:
    """An analysis with two coordinates."""
    random = np.random.default_rng(1)
    folder = results / "heterogeneity"
    ids = [f"p{i}" for i in range(count)]
    latents = pd.DataFrame(
        {
            "emflowParticleId": ids,
            "rlnRandomSubset": np.arange(count) % 2 + 1,
            "emflowLatent1": random.normal(size=count),
            "emflowLatent2": random.normal(size=count),
            "emflowCluster": np.arange(count) % 3 + 1,
        }
    )
    write_star(folder / "latents.star", {"particles": latents})
    particles = pd.DataFrame(
        {
            "emflowParticleId": ids[::-1],
            "rlnDefocusU": 1e4 + 100.0 * np.arange(count),
            "rlnAnglePsi": np.arange(count),
        }
    )
    write_star(folder / "fit" / "particles.star", {"particles": particles})
    write_bytes(folder / "figures" / "volumes.png", png_bytes(figure(1.0, 1.0)))
    write_metrics(folder / "metrics.json", {"components": 2, "states": 3})


def test_the_page_shows_latents_volumes_and_denoised_micrographs(project: Path) -> None:
    write_variation(project)
    write_mrc(project / "denoise" / "images" / "id1.mrc", np.random.default_rng(0).normal(size=(96, 96)), 4.0)
    report(project, project / "report")
    page = (project / "report" / "index.html").read_text()
    assert "Latent coordinates of the particles" in page
    assert "Projections of volumes along" in page
    assert "Coloured by every other column" in page
    assert page.count('alt="Denoised micrograph') == 1
    assert "No heterogeneity beyond noise" not in page


def test_a_page_without_them_says_nothing_of_them(project: Path) -> None:
    report(project, project / "report")
    page = (project / "report" / "index.html").read_text()
    assert "Raw and denoised" not in page
    assert 'id="variation"' not in page


def test_nothing_found_is_said(project: Path) -> None:
    write_star(
        project / "heterogeneity" / "latents.star", {"particles": pd.DataFrame({"emflowParticleId": ["a"]})}
    )
    write_metrics(project / "heterogeneity" / "metrics.json", {"components": 0})
    report(project, project / "report")
    assert "No heterogeneity beyond noise" in (project / "report" / "index.html").read_text()


def test_every_column_that_differs_has_a_panel() -> None:
    table = pd.DataFrame(
        {
            "emflowLatent1": ["0", "1", "2"],
            "emflowContrast": ["1", "1.1", "1.2"],
            "rlnDefocusU": ["1e4", "2e4", "2e4"],
            "rlnMicrographName": ["b.mrc", "a.mrc", "a.mrc"],
            "emflowMicrographId": ["y", "x", "x"],
            "mySideColumn": ["0.5", "0.25", "None"],
            "rlnVoltage": ["300", "300", "300"],
            "rlnImageName": ["1@a", "2@a", "3@a"],
        }
    )
    first, others = columns_of(table)
    assert first == ["rlnDefocusU", "emflowContrast"]
    assert others == ["rlnMicrographName", "mySideColumn"]  # neither constants nor text, micrographs once
    drawn = draw_latents(table, [*first, *others], 3)
    assert drawn is not None
    titles = {ax.get_title() for ax in drawn.axes}
    assert titles >= {"contrast", "defocus (µm)", "mySideColumn", "rlnMicrographName"}
    assert columns_of(pd.DataFrame({"emflowParticleId": []})) == ([], [])
    assert draw_latents(table, [], 3) is None


def test_defocus_is_shown_in_micrometres_and_micrographs_by_their_order() -> None:
    table = pd.DataFrame({"rlnDefocusU": ["15000", "None"], "rlnMicrographName": ["b", "a"]})
    np.testing.assert_allclose(values_of(table, "rlnDefocusU"), [1.5, np.nan])
    np.testing.assert_array_equal(values_of(table, "rlnMicrographName"), [1, 0])

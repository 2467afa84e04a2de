"""What the page shows of denoising and heterogeneity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from emflow.io.mrc import write_mrc
from emflow.io.record import write_metrics
from emflow.io.star import write_star
from emflow.report.command import report
from emflow.report.variation import _view, draw_latents, draw_volumes, volume_rows


def write_variation(results: Path, count: int = 40) -> None:
    """An analysis with two coordinates and a row of volumes along the first."""
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
    particles = pd.DataFrame({"emflowParticleId": ids[::-1], "rlnDefocusU": 1e4 + 100.0 * np.arange(count)})
    write_star(folder / "fit" / "particles.star", {"particles": particles})
    centre = np.indices((16,) * 3) - 8
    for i in range(1, 4):
        ball = np.exp(-(((centre[2] - i) ** 2 + centre[1] ** 2 + centre[0] ** 2) / 6.0))
        write_mrc(folder / "volumes" / f"pc01_{i:02d}.mrc", ball, 4.0)
    write_metrics(folder / "metrics.json", {"components": 2, "states": 3})


def test_the_page_shows_latents_volumes_and_denoised_micrographs(project: Path) -> None:
    write_variation(project)
    write_mrc(project / "denoise" / "images" / "id1.mrc", np.random.default_rng(0).normal(size=(96, 96)), 4.0)
    report(project, project / "report")
    page = (project / "report" / "index.html").read_text()
    assert "Latent coordinates of the particles" in page
    assert "Projections of volumes along" in page
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


def test_every_column_that_is_there_has_a_panel(project: Path) -> None:
    write_variation(project)
    table = pd.DataFrame(
        {"emflowLatent1": ["0", "1"], "emflowContrast": ["1", "1.1"], "rlnDefocusU": ["1e4", "2e4"]}
    )
    drawn = draw_latents(table)
    assert drawn is not None
    assert {ax.get_title() for ax in drawn.axes} >= {"contrast", "defocus (µm)"}
    assert draw_latents(pd.DataFrame({"emflowParticleId": []})) is None
    rows = volume_rows(project / "heterogeneity" / "volumes")
    assert [[path.name for path in row] for row in rows] == [["pc01_01.mrc", "pc01_02.mrc", "pc01_03.mrc"]]
    drawn = draw_volumes(rows)
    assert drawn is not None
    assert len(drawn.axes) == 3
    # the ball moves along x: the shown projection is one in which that is seen
    places = [int(ax.images[0].get_array().sum(0).argmax()) for ax in drawn.axes]
    assert np.diff(places).tolist() == [1, 1]
    assert draw_volumes([]) is None


def test_large_volumes_are_shown_small(tmp_path: Path) -> None:
    write_mrc(tmp_path / "v.mrc", np.ones((128, 128, 128)), 2.0)
    assert _view(tmp_path / "v.mrc").shape == (3, 72, 72)

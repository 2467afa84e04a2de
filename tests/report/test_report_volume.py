"""The page of a restored volume: its own, without the sections of particles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emflow.figure import figure, png_bytes
from emflow.io.record import verdict, write_metrics, write_verdicts
from emflow.report.command import report

NASTY = '<img src=x onerror="alert(1)">.tif'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What the steps leave of a small volume."""
    folder = tmp_path / "results" / "tissue"
    vem = folder / "vem"
    vem.mkdir(parents=True)
    seen = {"path": NASTY, "identity": "", "shape": [20, 24, 32], "dtype": "uint8", "voxel_nm": [40, 10, 10]}
    (vem / "volume.json").write_text(json.dumps(seen))
    (folder / "settings.yaml").write_text(json.dumps({"project": "tissue", "sample": {"symmetry": "C1"}}))
    write_metrics(
        vem / "model" / "metrics.json", {"held_out_psnr_db": 27.25, "held_out_psnr_linear_db": 25.5}
    )
    write_metrics(vem / "metrics.json", {"voxel_nm": 10.0, "z_voxels": 77, "y_voxels": 24, "x_voxels": 32})
    write_verdicts(
        vem / "verdicts.json", [verdict("May it be relied upon?", "warn", "In part.", "Use the mask.")]
    )
    (vem / "figures").mkdir()
    (vem / "figures" / "plane.png").write_bytes(png_bytes(figure(1, 1)))
    return folder


def _page(project: Path) -> str:
    report(project, project / "report")
    return (project / "report" / "index.html").read_text()


def test_it_says_what_was_made_of_what_and_how_good_it_is(project):
    page = _page(project)
    assert "Restored to isotropic voxels of 10 nm." in page
    assert "20 × 24 × 32 voxels (z, y, x) of 40 × 10 × 10 nm" in page
    assert "77 × 24 × 32 voxels (z, y, x) of 10 × 10 × 10 nm" in page
    assert page.count("Hidden slices come back at a PSNR of 27.2 dB") == 2, (
        "in the headline and beside the picture"
    )
    assert "Use the mask." in page
    assert 'alt="An xz plane' in page


def test_it_has_no_sections_of_particles(project):
    page = _page(project)
    for word in ("icrograph", "article", "CTF", "symmetry</dt>"):
        assert word not in page.split("<main>")[1].split('id="run"')[0]


def test_names_are_escaped(project):
    page = _page(project)
    assert NASTY not in page
    assert "&lt;img src=x" in page


def test_before_anything_is_restored(project):
    (project / "vem" / "metrics.json").unlink()
    (project / "vem" / "figures" / "plane.png").unlink()
    page = _page(project)
    assert "A model was trained; nothing is restored yet." in page
    assert "No volume has been restored yet." in page


def test_figures_are_in_the_summary(project):
    _page(project)
    summary = json.loads((project / "report" / "summary.json").read_text())
    assert summary["vem.model"]["held_out_psnr_db"] == 27.25
    assert summary["vem"]["z_voxels"] == 77

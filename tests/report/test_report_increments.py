"""The report says what has come since a stage was made, and whether to begin anew is worth it."""

from __future__ import annotations

import json
from pathlib import Path

from emflow.io.record import write_metrics
from emflow.report.command import report
from emflow.report.gather import gather
from emflow.report.increments import Increment, increments, verdicts
from emflow.report.summary import summarise


def stage(choice: str, made: int, anew: int, now: int = 1000) -> Increment:
    return Increment("refine", "Refinement", choice, made, anew, now)


def test_shares_and_rules() -> None:
    assert not stage("frozen", 500, 100).worth_anew
    assert stage("frozen", 499, 499).worth_anew
    assert stage("refresh", 1000, 600).share_new == 0.4
    assert stage("refresh", 1000, 600).worth_anew
    assert not stage("refresh", 1000, 700).worth_anew
    assert stage("frozen", 0, 0, 0).share_new == 0
    rows = verdicts([stage("frozen", 400, 400), stage("frozen", 900, 900), stage("refresh", 1000, 1)], "toy")
    assert [row["verdict"] for row in rows] == ["warn", "pass"]
    assert "emflow restart toy refine" in rows[0]["action"]
    assert "60% are new" in rows[0]["evidence"]


def test_the_page_and_the_summary_show_them(project: Path, tmp_path: Path) -> None:
    settings = json.loads((project / "settings.yaml").read_text())
    chosen = {"classify": "refresh", "abinitio": "frozen", "refine": "refresh", "heterogeneity": "refresh"}
    (project / "settings.yaml").write_text(json.dumps({**settings, "increments": chosen}))
    write_metrics(project / "reconstruct" / "abinitio" / "metrics.json", {"particles": 20})
    write_metrics(
        project / "reconstruct" / "refine" / "metrics.json", {"particles": 45, "anew_particles": 40}
    )
    results = gather(project)
    found = increments(results, summarise(results))
    assert [(s.key, s.made_particles, s.anew_particles, s.now) for s in found] == [
        ("abinitio", 20, 20, 50),
        ("refine", 45, 40, 50),
    ]
    report(project, tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["increments"]["abinitio_new_percent"] == 60
    assert summary["increments"]["refine_new_percent"] == 20
    page = (tmp_path / "out" / "index.html").read_text()
    assert "What has come since each stage was made" in page
    assert "First map: is it still good enough" in page
    assert "emflow restart toy abinitio" in page

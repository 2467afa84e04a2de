"""The section on a running acquisition: there if somebody watches, escaped, and honest about what came since the map."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from emflow.report.command import report

NASTY = '<img src=x onerror="alert(1)">&'


@pytest.fixture
def said() -> dict:
    return {
        "project": "toy", "state": f"waiting: {NASTY}", "updated": "2026-11-23T02:58:19+00:00",
        "micrographs": {"seen": 12, "waiting": 1, "behind": 3, "processed": 8, "accepted": 6, "set_aside": 2},
        "particles": 75, "pooled_particles": 50, "in_per_hour": 100.0, "out_per_hour": 60.0,
        "capacity_per_hour": 80.0, "catch_up_s": None,
        "disks": {"results": {"free_gb": 20.0, "full_in_hours": 3.0}},
        "alarms": {"acquisition stalled": {"since": "2026-11-23T01:00:00+00:00", "text": NASTY}},
        "undelivered": {"webhook": NASTY},
        "waiting_files": [{"name": f"raw/{NASTY}.mrc", "why": NASTY}],
    }  # fmt: skip


def made(results: Path) -> str:
    report(results, results / "report")
    return (results / "report" / "index.html").read_text(encoding="utf-8")


def test_the_section_shows_what_the_watcher_said_and_escapes_it(project: Path, said: dict) -> None:
    assert 'id="acquisition"' not in made(project)
    (project / "watch.json").write_text(json.dumps(said))
    page = made(project)
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x onerror=&#34;alert(1)&#34;&gt;&amp;") >= 5
    for text in (
        "falling behind",
        "of which 2 set aside",
        "25 particles have come since",
        "full in 3 h",
        "02:58 UTC",
    ):
        assert text in page


@pytest.mark.parametrize("content", ["{", "[]", '{"micrographs": 3}', "{}"])
def test_a_damaged_file_is_named_and_the_rest_shown(project: Path, content: str) -> None:
    (project / "watch.json").write_text(content)
    page = made(project)
    assert "could not be read" in page
    assert "toy" in page


def test_what_came_since_the_map_is_not_called_lost(project: Path) -> None:
    joined = project / "extract" / "particles.star"
    assert "came since the map" not in made(project)
    shard = project / "extract" / "shard_00002.star"
    shard.write_bytes((project / "extract" / "shard_00001.star").read_bytes())
    later = joined.stat().st_mtime_ns + 10**9
    os.utime(shard, ns=(later, later))
    page = made(project)
    assert "50 came since the map was made" in page
    assert "5 left out of the refinement" in page

"""The page: self-contained, escaped, whole, and plain about what is missing."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from emflow.figure import figure, png_bytes
from emflow.io.record import verdict, write_verdicts
from emflow.io.star import read_star, write_star
from emflow.report.command import report
from emflow.step import EmflowError

VOID = {"meta", "img", "input", "br", "link", "hr", "image", "rect", "circle"}


class Page(HTMLParser):
    """Collect tags, attributes and text; complain about tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def make(results: Path) -> tuple[str, dict]:
    report(results, results / "report")
    page = (results / "report" / "index.html").read_text(encoding="utf-8")
    return page, json.loads((results / "report" / "summary.json").read_text())


def test_page_is_whole_and_needs_nothing_else(project: Path) -> None:
    page, _ = make(project)
    parsed = Page(page)
    assert "No resolution is claimed, though the half maps of 45 particles agree to 21.2 Å" in parsed.text
    for tag, attributes in parsed.tags:
        for name in ("src", "href"):
            link = attributes.get(name)
            assert link is None or link.startswith(("data:image/", "#")), (tag, link)
        assert tag not in ("script", "link", "iframe")
        assert not [name for name in attributes if name.startswith("on")]
        assert tag != "img" or attributes["alt"]
    assert "url(" not in page
    assert "@import" not in page
    targets = {a["href"] for _, a in parsed.tags if (a.get("href") or "").startswith("#")}
    assert targets <= {"#" + (a.get("id") or "") for _, a in parsed.tags}
    pictures = [a for t, a in parsed.tags if t in ("img", "image")]
    assert len(pictures) == 6 + 1 + 2 + 1 + 2 + 1  # gallery, mask, session and CTF, particles, two maps, FSC
    assert len([t for t, _ in parsed.tags if t == "circle"]) == 6 * 10
    assert len(page) < 3_000_000


def test_names_from_data_are_escaped(project: Path) -> None:
    page, _ = make(project)
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x onerror=") == 2  # set-aside table and verdict


def test_losses_and_verdicts_are_told(project: Path) -> None:
    text = re.sub(r"\s+", " ", Page(make(project)[0]).text)
    assert "2 too few rings" in text
    assert "20 on micrographs that were not accepted" in text
    assert "7 too near to the edge" in text
    assert "3 otherwise not cut out" in text
    assert "5 left out of the refinement" in text
    assert (
        text.index("fail Resolution?") < text.index("warn Are the files good?") < text.index("Do two starts")
    )
    assert "truncated file" in text
    assert "Do not." in text


def test_summary_gathers_and_counts(project: Path) -> None:
    summary = make(project)[1]
    assert summary["session"]["accepted"] == 6
    assert summary["ctf"]["defocus_median_um"] == pytest.approx(1.345)
    assert summary["ctf"]["fit_resolution_median_angstrom"] == 8.5
    assert summary["pick"] == {
        "picks": 80,
        "picks_on_accepted": 60,
        "picks_per_micrograph_median": 10,
        "micrographs_without_picks": 0,
        "masked_fraction_mean": 0.0,
    }
    assert summary["extract"] == {"particles": 50, "recentered_particles": 50, "dropped_outside": 7}
    assert summary["reconstruct.refine"]["resolution_angstrom"] == 20.0
    assert summary["validate"]["resolution_angstrom"] == 21.25
    assert summary["truth"]["pick_f1"] == 0.91
    assert summary["simulation"]["snr_in_box"] == 0.08
    assert summary["cost"] == {"jobs": 1, "cpu_s": 12.5, "peak_memory_mb": 300.0}
    own = project / "records" / "report" / "all.json"
    own.parent.mkdir()
    own.write_text(json.dumps({"cpu_s": 99.0}))
    assert make(project)[1] == summary, "what an earlier report cost is no part of the next"


@pytest.mark.parametrize(
    "missing",
    ["validate", "reconstruct", "extract", "pick", "ctf", "records", "simulate", "settings.yaml",
     "session/quality.star", "session/set_aside.star"],
)  # fmt: skip
def test_a_partial_run_shows_what_there_is(project: Path, missing: str) -> None:
    path = project / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = Page(make(project)[0]).text
    assert "Parts of the results could not be read" not in text
    if missing == "validate":
        assert "50 particles from 6 micrographs; no validated map yet." in text
    if missing == "extract":
        assert "No particles have been extracted yet." in text


def test_what_extraction_set_aside_is_listed(project: Path) -> None:
    tables = read_star(project / "extract" / "shard_00001.star")
    aside = {"rlnMicrographName": ["micrographs/m3.mrc"], "emflowMicrographId": ["id3"]}
    aside |= {"emflowReason": ["two jobs died on it"], "emflowExpected": [""]}
    write_star(project / "extract" / "shard_00001.star", tables | {"set_aside": pd.DataFrame(aside)})
    assert "two jobs died on it" not in Page(make(project)[0]).text, (
        "its record does not say that there is any"
    )
    record = project / "records" / "extract.run" / "shard_00001.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"step": "extract.run", "set_aside": 1}))
    page, summary = make(project)
    assert "two jobs died on it" in Page(page).text
    assert summary["session"]["set_aside"] == 3


def test_only_a_list_of_micrographs(project: Path) -> None:
    for path in project.iterdir():
        if path.name != "session":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("quality.star", "set_aside.star", "metrics.json", "verdicts.json"):
        (project / "session" / name).unlink()
    page, summary = make(project)
    assert "8 micrographs found; no particles picked yet." in Page(page).text
    assert summary["session"] == {"micrographs": 8}
    assert "ctf" not in summary


def test_broken_parts_are_named_and_the_rest_is_shown(project: Path) -> None:
    (project / "validate" / "metrics.json").write_text("{")
    (project / "session" / "verdicts.json").write_text("{}")
    (project / "ctf" / "shard_00001.profiles.star").write_text("no table")
    (project / "reconstruct" / "refine" / "map.mrc").write_bytes(b"MAP?")
    Path("micrographs/m0.mrc").unlink()
    text = Page(make(project)[0]).text
    for part in (
        "validate/metrics.json",
        "verdicts.json: expected a list",
        "profiles.star",
        "refine/map.mrc",
    ):
        assert part in text
    assert "No picture: micrographs/m0.mrc: no such file" in text


def test_noise_runs_say_no_particles(project: Path) -> None:
    for step in ("validate", "reconstruct", "simulate"):
        shutil.rmtree(project / step)
    quality = read_star(project / "session" / "quality.star")
    quality["micrographs"]["emflowPickCount"] = 0
    write_star(project / "session" / "quality.star", quality)
    for name in ("particles.star", "shard_00001.star", "recentered/particles.star"):
        tables = read_star(project / "extract" / name)
        write_star(project / "extract" / name, {**tables, "particles": tables["particles"].iloc[:0]})
    (project / "extract" / "metrics.json").write_text('{"particles": 0}')
    picks = read_star(project / "pick" / "shard_00001.star")
    write_star(project / "pick" / "shard_00001.star", {**picks, "particles": picks["particles"].iloc[:0]})
    page, summary = make(project)
    text = Page(page).text
    assert "No particles in 6 micrographs." in text
    assert summary["extract"]["particles"] == 0
    assert "<circle" not in page


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("pass", "21.2 Å between half maps, from 45 particles on 6"),
        ("warn", "with a reservation"),
        ("fail", "No reso"),
    ],
)
def test_headline_claims_no_more_than_the_verdict(project: Path, answer: str, words: str) -> None:
    write_verdicts(project / "validate" / "verdicts.json", [verdict("Resolution?", answer, "Because.")])
    text = Page(make(project)[0]).text
    assert words in text[: text.index("Summary")]
    assert ("Because." in text[: text.index("Summary")]) == (answer != "pass")


def test_no_resolution_is_said_first(project: Path) -> None:
    (project / "validate" / "metrics.json").write_text('{"resolution_angstrom": null}')
    assert "No resolution: the half maps of 45 particles" in Page(make(project)[0]).text
    (project / "validate" / "metrics.json").write_text('{"resolution_angstrom": null, "particles": 45}')
    assert "Too few particles for a map: 45 particles from 6" in Page(make(project)[0]).text


@pytest.mark.parametrize("name", ["directions", "particles"])
def test_figures_of_directions_and_particles_are_shown_where_there_are_any(project: Path, name: str) -> None:
    captions = {"directions": "within cones of 20°", "particles": "The particle table:"}
    assert captions[name] not in Page(make(project)[0]).text
    folder = project / "validate" / "figures"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.png").write_bytes(png_bytes(figure(1, 1)))
    assert captions[name] in Page(make(project)[0]).text


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmflowError, match="no such folder"):
        report(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(EmflowError, match="holds no results"):
        report(tmp_path, tmp_path / "out")


def test_equal_results_give_an_equal_page(project: Path) -> None:
    assert make(project) == make(project)

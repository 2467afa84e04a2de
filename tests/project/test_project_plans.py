"""What a finished tiny run makes of estimates, room on the disk, branches and comparisons.

One file, since these tests share one finished run, and tests run in parallel by file.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from emflow.io.mrc import read_mrc, write_mrc

_LOOK = """
import json, sys, yaml
from pathlib import Path
from emflow.project.estimate import estimate
from emflow.project.plan import plan_run
from emflow.project.schedule import Slots
found = {}
def look(workflow):
    for cores in (1, 2, 16):
        got = estimate(workflow, Slots(cores, None, 0))
        found[cores] = {
            "jobs": {step.rule: len(step.costs) for step in got.steps},
            "cpu_s": sum(cost.cpu_s for cost in got.costs),
            "sources": sorted({cost.source for cost in got.costs}),
            "factor": max(cost.factor for cost in got.costs),
            "wall_s": got.wall_s, "longest_s": got.longest_s, "kept_bytes": got.kept_bytes,
        }
steps = plan_run([Path("run.yaml")], yaml.safe_load(sys.argv[1]), look=look)
found["planned"] = {step.rule: step.to_run for step in steps if step.to_run}
print("FOUND" + json.dumps(found))
"""
EVERYTHING = "{sample: {pixel_size_angstrom: 4.1, diameter_angstrom: 200}}"
"""A change that every step follows."""


def _estimate(workspace, changes: str) -> dict:
    said = workspace.call("python", "-c", _LOOK, changes)
    return json.loads(said.rpartition("FOUND")[2])


def _recorded(workspace) -> float:
    records = (workspace.results / "records").rglob("*.json")
    return sum(json.loads(path.read_text())["cpu_s"] for path in records)


def _copy(tiny, folder: Path, **changes: object):
    """A copy of the finished run with another configuration."""
    copy = tiny.copy(folder)
    copy.config = {**tiny.config, **changes}
    (copy.folder / "run.yaml").write_text(yaml.safe_dump(copy.config))
    return copy


def test_a_finished_projects_records_give_its_cost_again(tiny):
    found = _estimate(tiny, EVERYTHING)
    one, two, many = (found[cores] for cores in ("1", "2", "16"))
    assert one["jobs"] == found["planned"]
    assert sum(one["jobs"].values()) == len(list((tiny.results / "records").rglob("*.json")))
    assert one["sources"] == ["own"]
    assert _recorded(tiny) / 1.3 < one["cpu_s"] < _recorded(tiny) * 1.3
    assert one["factor"] < 1.6
    assert many["longest_s"] <= many["wall_s"] <= two["wall_s"] <= one["wall_s"]
    assert one["wall_s"] >= sum(one["jobs"].values()) * 3.0, "a job at a time, each with its start"
    hidden = sum(p.stat().st_size for p in tiny.results.rglob("*") if p.is_file() and "/." in str(p))
    on_disk = sum(p.stat().st_size for p in tiny.results.rglob("*") if p.is_file()) - hidden
    assert on_disk / 3 < one["kept_bytes"] < on_disk * 3


def test_shipped_figures_are_within_their_range_of_a_run_without_records(tiny, tmp_path):
    copy = tiny.copy(tmp_path / "work")
    recorded = _recorded(tiny)
    shutil.rmtree(copy.results / "records")
    found = _estimate(copy, EVERYTHING)["2"]
    assert found["sources"] == ["shipped"]
    assert recorded / 2 < found["cpu_s"] < recorded * 2


def test_a_plan_says_what_it_costs_and_nothing_where_nothing_runs(tiny):
    said = tiny.call("emflow", "plan", "run.yaml", "simulate={score: {match_radius: 0.3}}", "--jobs", "4")
    assert "2 of " in said.splitlines()[0]
    assert "own records" in said
    assert "with 4 jobs at once" in said
    assert "simulate score → report" in said
    assert "CPU" not in tiny.call("emflow", "plan", "run.yaml")


def test_denoised_images_go_after_picking_and_nothing_runs_again(tiny, tmp_path):
    given = {key: value for key, value in tiny.config["input"].items() if key != "truth"}
    copy = _copy(tiny, tmp_path / "work", input=given, pick={"apply": {"pixels": "denoised"}})
    shutil.rmtree(copy.results / "denoise")
    images = copy.results / "denoise" / "images"
    until = ("--until", "pick_apply")
    copy.call(*copy.snakemake(*until))
    assert (copy.results / "pick" / "shard_00002.star").is_file()
    assert not list(images.glob("*")), "removed once picked from"
    assert copy.jobs(*until) == {}
    assert copy.jobs(*until, "--config", "execution={threads: 1, keep_denoised: true}") == {}
    # a new micrograph is denoised, and no other again
    folder = copy.folder / "results" / "tiny-input"
    for kind in ("micrographs", "even", "odd"):
        write_mrc(
            folder / kind / "sim_00005.mrc", read_mrc(folder / kind / "sim_00001.mrc")[::-1].copy(), 4.0
        )
    journals = [copy.results / room / ".shard_00002.journal" for room in ("denoise", "pick")]
    lines = [len(path.read_text().splitlines()) for path in journals]
    copy.call(*copy.snakemake(*until, "--config", "execution={threads: 1, keep_denoised: true}"))
    assert [len(path.read_text().splitlines()) for path in journals] == [count + 1 for count in lines]
    assert len(list(images.glob("*"))) == 1, "kept, since that was asked for"
    # other settings of picking need the images of all
    jobs = copy.jobs(*until, "--config", "pick={apply: {pixels: denoised, min_probability: 0.6}}")
    assert jobs == {"denoise_apply": 2, "pick_apply": 2}
    # with raw pixels, only those that the report shows are denoised
    jobs = copy.jobs("--config", "pick={apply: {pixels: raw}}")
    assert jobs["denoise_shown"] == 1
    assert "denoise_apply" not in jobs
    # an image that is gone without a note stops picking: no micrograph is lost for it
    for path in (journals[1], *images.glob("*")):
        path.unlink()
    table = copy.results / "denoise" / "shard_00002.star"
    words = ("emflow", "pick", "apply", str(table), "again.star", "--pixels", "denoised")
    said = copy.call(*words, "--diameter-angstrom", "200", code=2)
    assert "--forcerun denoise_apply" in said


def test_clean_frees_what_nothing_needs_and_what_is_needed_is_made_again(tiny, tmp_path):
    copy = tiny.copy(tmp_path / "work")
    beside = {path: path.stat().st_mtime_ns for path in (copy.folder / "results" / "tiny-input").rglob("*")}
    before = {path for path in copy.results.rglob("*") if path.is_file()}
    listed = copy.call("emflow", "clean", "tiny")
    assert "stacks" in listed
    assert "--yes" in listed
    assert {path for path in copy.results.rglob("*") if path.is_file()} == before, "only listed"
    said = copy.call("emflow", "clean", "tiny", "--yes")
    assert "Freed" in said
    gone = {str(p.relative_to(copy.results)) for p in before if not p.exists()}
    assert {"extract/shard_00002.mrcs", "extract/shard_00002.star", "extract/particles.star"} <= gone
    assert all(name.startswith("extract/") or ".checkpoint" in name for name in gone)
    assert not any(name.startswith("extract/recentered") for name in gone)
    assert beside == {p: p.stat().st_mtime_ns for p in (copy.folder / "results" / "tiny-input").rglob("*")}
    assert "Nothing can be freed" in copy.call("emflow", "clean", "tiny")
    assert "Nothing to be done" in copy.call(*copy.snakemake())
    spared = copy.jobs("--config", "heterogeneity={analyze: {volumes: 4, coordinates: 1}}")
    assert "extract_run" not in spared
    again = copy.jobs("--config", "reconstruct={abinitio: {n_starts: 2}}")
    assert again["extract_run"] == 1, "of the shard that went"
    assert "no such kind" in copy.call("emflow", "clean", "tiny", "results", code=2)
    assert "no such project" in copy.call("emflow", "clean", "../tiny", "--yes", code=2)


def test_a_project_in_use_is_not_cleaned_or_branched(tiny, tmp_path):
    copy = tiny.copy(tmp_path / "work")
    with open(copy.results / ".lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "running this project" in copy.call("emflow", "clean", "tiny", "--yes", code=2)
        assert "running this project" in copy.call("emflow", "branch", "tiny", "beside", code=2)
    assert not (copy.folder / "results" / "beside").exists()
    assert (copy.results / "extract" / "particles.star").exists()


def test_a_branch_shares_what_is_equal_and_survives_its_parent(tiny, tmp_path):
    copy = tiny.copy(tmp_path / "work")
    change = "heterogeneity.analyze.volumes=4"
    said = copy.call("emflow", "branch", "tiny", "more", change)
    assert "emflow plan more.yaml" in said
    branch = copy.folder / "results" / "more"
    for name in (
        "reconstruct/refine/half1.mrc",
        "extract/recentered/shard_00001.mrcs",
        "ctf/shard_00001.star",
    ):
        assert (branch / name).samefile(copy.results / name), name
    for name in ("extract/particles.star", "reconstruct/refine/particles.star"):
        own, parents = (folder / name for folder in (branch, copy.results))
        assert own.stat().st_mtime_ns == parents.stat().st_mtime_ns
        assert "results/tiny/" not in own.read_text()
        assert own.read_text().replace("results/more/", "results/tiny/") == parents.read_text()
    for path in copy.results.rglob(".*.journal"):
        assert not path.samefile(branch / path.relative_to(copy.results)), "appended to"
    assert "exists and is not overwritten" in copy.call("emflow", "branch", "tiny", "more", code=2)
    wrong = copy.call("emflow", "branch", "tiny", "wrong", "heterogeneity.analyze.volume=4", code=2)
    assert "Did you mean heterogeneity.analyze.volumes?" in wrong
    assert not (copy.folder / "wrong.yaml").exists()

    (copy.folder / "run.yaml").rename(copy.folder / "parent.yaml")
    (copy.folder / "more.yaml").rename(copy.folder / "run.yaml")
    touched = {"heterogeneity_analyze": 1, "validate_states": 1, "simulate_score": 1, "report": 1}
    assert copy.jobs() == touched
    # away with the parent: the branch has all it needs; and what it makes, the parent's files do not see
    before = {path.relative_to(copy.results): path.read_bytes() for path in copy.results.rglob("*.mrc*")}
    copy.results.rename(copy.folder / "elsewhere")
    copy.call(*copy.snakemake())
    assert "Nothing to be done" in copy.call(*copy.snakemake())
    assert before == {name: (copy.folder / "elsewhere" / name).read_bytes() for name in before}
    assert "/tiny/" not in (branch / "heterogeneity" / "states" / "01" / "particles.star").read_text()
    # a stack of the branch is read by a step that did not run yet
    copy.call(*copy.snakemake("--forcerun", "validate_particles", "--until", "validate_particles"))

    (copy.folder / "elsewhere").rename(copy.results)
    compared = copy.call("emflow", "diff", "tiny", "more", "--page", "diff.html")
    assert "heterogeneity.analyze.volumes  3 → 4" in compared
    assert compared.count("→") < 30, "what is equal is left out"
    assert "the same files" in compared
    assert os.path.getsize(copy.folder / "diff.html") > 1000


@pytest.mark.parametrize("name", ["../out", "results/x", ".hidden", "a b"])
def test_a_branch_has_a_name_that_is_no_path(tiny, tmp_path, name):
    copy = tiny.copy(tmp_path / "work")
    before = sorted((copy.folder / "results").iterdir())
    copy.call("emflow", "branch", "tiny", name, code=2)
    assert sorted((copy.folder / "results").iterdir()) == before

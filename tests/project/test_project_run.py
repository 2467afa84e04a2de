"""The whole chain through Snakemake on a tiny simulated session: run, rerun, change, extend."""

from __future__ import annotations

import json

import pytest

from emflow.project.lock import is_held

PER_SHARD = ("session_check", "ctf_fit", "pick_apply", "session_select", "extract_run", "extract_recenter")
POOLED = (
    "session_join", "extract_join", "reconstruct_abinitio", "extract_join_recentered", "reconstruct_refine",
    "validate_maps", "simulate_score", "report",
)  # fmt: skip
EVERYTHING = {**dict.fromkeys(PER_SHARD, 2), **dict.fromkeys(POOLED, 1)}


def test_the_chain_ends_with_a_page_and_figures(tiny):
    summary = json.loads((tiny.results / "report" / "summary.json").read_text())
    assert {"session", "ctf", "pick", "extract", "reconstruct.refine", "validate", "truth"} <= summary.keys()
    assert (tiny.results / "report" / "index.html").stat().st_size > 1000
    for rule in ("session.check/shard_00001", "reconstruct.refine/all", "extract.join/recentered"):
        record = json.loads((tiny.results / "records" / f"{rule}.json").read_text())
        assert record["step"] == rule.split("/")[0]
        assert record["threads"] == 1, "execution.threads reaches the job"
    assert not is_held(tiny.results), "the project is free once the run has ended"


def test_a_second_run_has_nothing_to_do_and_writes_nothing(tiny):
    before = {path: path.stat().st_mtime_ns for path in tiny.results.rglob("*") if path.is_file()}
    assert "Nothing to be done" in tiny.call(*tiny.snakemake())
    after = {path: path.stat().st_mtime_ns for path in tiny.results.rglob("*") if path.is_file()}
    before.pop(tiny.results / ".lock"), after.pop(tiny.results / ".lock")
    assert after == before
    assert "Nothing to be done" in tiny.call("emflow", "plan", "run.yaml")


@pytest.mark.parametrize(
    ("change", "spared"),
    [
        ("execution={device: cpu, memory_gb: 1}", set(EVERYTHING)),
        ("report={}", None),
        ("simulate={score: {match_radius: 0.3}}", set(EVERYTHING) - {"simulate_score", "report"}),
        (
            "session={select: {min_picks: 2}, find: {shard_size: 3}}",
            {"session_check", "ctf_fit", "pick_apply"},
        ),
        ("ctf={fit: {patch_size: 256}}", {"session_check", "pick_apply"}),
        (
            "sample={symmetry: C2, pixel_size_angstrom: 4.0, diameter_angstrom: 200}",
            {"session_check", "ctf_fit"},
        ),
        ("sample={pixel_size_angstrom: 4.1, diameter_angstrom: 200}", set()),
    ],
)
def test_a_changed_setting_reruns_its_step_and_what_follows(tiny, change, spared):
    if spared is None:
        assert "no such key" in tiny.call(*tiny.snakemake("--dry-run", "--config", change), code=2)
        return
    jobs = tiny.jobs("--config", change)
    assert {rule: count for rule, count in EVERYTHING.items() if rule not in spared} == jobs


def test_a_plan_names_the_changed_setting(tiny):
    said = tiny.call("emflow", "plan", "run.yaml", "simulate={score: {match_radius: 0.3}}")
    assert "2 of 20 jobs would run" in said
    assert "match_radius 0.25 → 0.3" in said
    assert "follows simulate score" in said


def test_a_new_micrograph_reruns_its_shard_and_the_pooled_steps(tiny, tmp_path):
    from emflow.io.mrc import read_mrc, write_mrc

    copy = tiny.copy(tmp_path / "work")
    folder = copy.folder / "results" / "tiny-input"
    for kind in ("micrographs", "even", "odd"):
        data = read_mrc(folder / kind / "sim_00001.mrc")
        write_mrc(folder / kind / "sim_00005.mrc", data[::-1, ::-1].copy(), 4.0)
    lists = {path.name: path.read_bytes() for path in (copy.results / "session").glob("shard_*.star")}
    expected = {**dict.fromkeys(PER_SHARD, 1), **dict.fromkeys(POOLED, 1)}
    expected["extract_recenter"] = 2  # poses are pooled: every shard's particles are centred anew
    assert copy.jobs() == expected
    assert "new or changed input (shard_00002.star)" in copy.call("emflow", "plan", "run.yaml")
    now = {path.name: path.read_bytes() for path in (copy.results / "session").glob("shard_*.star")}
    assert now == lists, "a plan grows no list"
    journal = copy.results / "ctf" / ".shard_00002.journal"
    known = journal.read_text()
    copy.call(*copy.snakemake("--until", "ctf_fit"))
    assert journal.read_text().startswith(known), "what the grown shard had is not computed again"
    assert len(journal.read_text().splitlines()) == len(known.splitlines()) + 1
    now = {path.name: path.read_bytes() for path in (copy.results / "session").glob("shard_*.star")}
    assert now["shard_00001.star"] == lists["shard_00001.star"]
    assert now["shard_00002.star"] != lists["shard_00002.star"]


def test_a_wrong_configuration_stops_before_any_job(tiny):
    said = tiny.call(*tiny.snakemake("--config", "ctf={fit: {patchsize: 256}}"), code=2)
    assert "ctf.fit.patchsize: no such key. Did you mean ctf.fit.patch_size?" in said
    assert "Traceback" not in said
    said = tiny.call("snakemake", "--cores", "1", code=2)
    assert "--configfile" in said
    said = tiny.call(*tiny.snakemake("--config", "input=nowhere", "project=other"), code=2)
    assert "nowhere" in said


def test_imported_ctf_and_picks_replace_the_steps(tiny):
    jobs = tiny.jobs(
        "--config",
        "input={ctf: results/tiny/session/micrographs.star, picks: results/tiny/extract/particles.star}",
    )
    assert jobs["ctf_import"] == 2
    assert jobs["pick_import"] == 2
    assert "ctf_fit" not in jobs
    assert "pick_apply" not in jobs

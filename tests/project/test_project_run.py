"""The whole chain through Snakemake on a tiny simulated session: run, rerun, change, extend, kill, disturb.

One file, since these tests share one finished run, and tests run in parallel by file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from emflow.io.mrc import read_mrc, write_mrc
from emflow.io.star import read_star
from emflow.project.lock import is_held
from emflow.project.unlock import running_steps

PER_SHARD = (
    "session_check", "ctf_fit", "denoise_apply", "pick_apply", "pick_compared", "session_select", "extract_run",
    "extract_recenter",
)  # fmt: skip
POOLED = (
    "session_join", "extract_join", "reconstruct_abinitio", "extract_join_recentered", "reconstruct_refine",
    "heterogeneity_fit", "heterogeneity_analyze", "validate_maps", "validate_local", "validate_particles",
    "validate_states", "simulate_score", "report",
)  # fmt: skip
EVERYTHING = {**dict.fromkeys(PER_SHARD, 2), **dict.fromkeys(POOLED, 1)}

UNTOUCHED = (
    "extract/particles.star",
    "extract/recentered/particles.star",
    "reconstruct/",
    "heterogeneity/",
    "validate/",
)
"""What must not change when broken micrographs lie among the good ones."""


def test_the_chain_ends_with_a_page_and_figures(tiny):
    summary = json.loads((tiny.results / "report" / "summary.json").read_text())
    rooms = {"session", "ctf", "pick", "extract", "reconstruct.refine", "heterogeneity", "validate", "truth"}
    assert rooms <= summary.keys()
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
    for path in (
        tiny.results / ".lock",
        tiny.results / ".frozen.json",
    ):  # who runs, and what it leaves as it is
        before.pop(path), after.pop(path)
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
            {"session_check", "ctf_fit", "denoise_apply", "pick_apply", "pick_compared"},
        ),
        ("ctf={fit: {patch_size: 256}}", {"session_check", "denoise_apply", "pick_apply", "pick_compared"}),
        (
            "heterogeneity={analyze: {volumes: 4}}",
            set(EVERYTHING) - {"heterogeneity_analyze", "validate_states", "simulate_score", "report"},
        ),
        (
            "sample={symmetry: C2, pixel_size_angstrom: 4.0, diameter_angstrom: 200}",
            {
                "session_check",
                "denoise_apply",
                "ctf_fit",
                "pick_apply",
                "pick_compared",
                "session_select",
                "session_join",
                "extract_run",
                "extract_join",
            },
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


def test_a_model_is_an_input_of_the_validation_and_of_nothing_else(tiny):
    (tiny.folder / "model.pdb").write_text("HEADER    any file, since nothing is run\n")
    words = ("--config", "input={model: model.pdb}")
    assert tiny.jobs(*words) == {"validate_maps": 1, "simulate_score": 1, "report": 1}
    said = tiny.call(*tiny.snakemake("--dry-run", "--printshellcmds", *words))
    assert "--model model.pdb" in said
    assert "input: results/tiny/reconstruct/refine/half1.mrc" in said
    missing = tiny.call(*tiny.snakemake("--dry-run", "--config", "input={model: none.pdb}"), code=2)
    assert "input.model: no file none.pdb" in missing
    assert "--model" not in tiny.call(*tiny.snakemake("--dry-run", "--printshellcmds", "--forceall"))


def test_a_plan_names_the_changed_setting(tiny):
    said = tiny.call("emflow", "plan", "run.yaml", "simulate={score: {match_radius: 0.3}}")
    assert f"2 of {sum(EVERYTHING.values()) - 2} jobs would run" in said, (
        "the first map is made: neither it nor the join of its particles has a job any more"
    )
    assert "match_radius 0.25 → 0.3" in said
    assert "follows simulate score" in said


def test_a_new_micrograph_reruns_its_shard_and_the_pooled_steps(tiny, tmp_path):
    copy = tiny.copy(tmp_path / "work")
    folder = copy.folder / "results" / "tiny-input"
    for kind in ("micrographs", "even", "odd"):
        data = read_mrc(folder / kind / "sim_00001.mrc")
        write_mrc(folder / kind / "sim_00005.mrc", data[::-1, ::-1].copy(), 4.0)
    lists = {path.name: path.read_bytes() for path in (copy.results / "session").glob("shard_*.star")}
    expected = {**dict.fromkeys(PER_SHARD, 1), **dict.fromkeys(POOLED, 1)}
    del (
        expected["reconstruct_abinitio"],
        expected["extract_join"],
    )  # a first map is made once, of what is there then
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


def _break_some(folder: Path) -> list[str]:
    """Put broken micrographs beside the good ones; return their names."""
    good = folder / "sim_00001.mrc"
    data = read_mrc(good)
    (folder / "zz_truncated.mrc").write_bytes(good.read_bytes()[:100_000])
    (folder / "zz_empty.mrc").write_bytes(b"")
    (folder / "zz_text.mrc").write_text("not an image")
    with pytest.warns(RuntimeWarning, match="NaN"):
        write_mrc(folder / "zz_nan.mrc", np.full_like(data, np.nan), 4.0)
    write_mrc(folder / "zz_constant.mrc", np.full_like(data, 7.0), 4.0)
    write_mrc(folder / "zz_size.mrc", data[:100, :100].copy(), 4.0)
    shutil.copy(good, folder / "zz_duplicate.mrc")
    return sorted(path.name for path in folder.glob("zz_*"))


def _steps(workspace, word: str) -> list[int]:
    """Processes of a step that work in a workspace."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(workspace.folder) and word in process.cmdline():
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_killed_disturbed_and_fed_with_broken_files_it_gives_the_same_result(
    tiny, workspace_class, tmp_path, monkeypatch
):
    workspace = workspace_class(tmp_path / "work", tiny.config)
    shutil.copytree(tiny.folder / "results" / "tiny-input", workspace.folder / "results" / "tiny-input")
    bad = _break_some(workspace.folder / "results" / "tiny-input" / "micrographs")
    monkeypatch.chdir(workspace.folder)

    # A second run is refused while the first works, and says why; kill -9 of the first leaves no writer.
    with workspace.start(*workspace.snakemake()) as run:
        workspace.wait_for(lambda: list(workspace.results.glob("ctf/.shard_*.journal")), run)
        said = workspace.call(*workspace.snakemake(), code=2)
        assert f"process {run.pid}" in said
        assert "is running this project" in said
        assert "still running" in workspace.call("emflow", "unlock", "tiny", code=2)
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert "emflow unlock tiny" in workspace.call(*workspace.snakemake(), code=2)
    assert "Unlocked: tiny" in workspace.call("emflow", "unlock")
    assert running_steps("tiny") == []

    # kill -9 of a step: the run stops, says so, and the same command goes on.
    with workspace.start(*workspace.snakemake()) as run:
        workspace.wait_for(lambda: _steps(workspace, "refine"), run)
        os.kill(_steps(workspace, "refine")[0], signal.SIGKILL)
        said = workspace.said(run)
    assert run.returncode == 1
    assert "reconstruct_refine" in said
    assert not (workspace.results / "report" / "index.html").exists()
    assert "Nothing was locked" in workspace.call("emflow", "unlock")
    workspace.call(*workspace.snakemake())
    assert "Nothing to be done" in workspace.call(*workspace.snakemake())

    expected, got = tiny.digests(), workspace.digests()
    same = [name for name in expected if name.startswith(UNTOUCHED)]
    assert len(same) > 15
    assert {name: got.get(name) for name in same} == {name: expected[name] for name in same}
    table = read_star(workspace.results / "session" / "set_aside.star")["set_aside"]
    assert sorted(Path(name).name for name in table["rlnMicrographName"]) == bad
    assert all(table["emflowReason"])


def test_the_same_input_gives_the_same_bytes(tiny, tmp_path):
    """Results that a run made again in the same folder, without their journals, are the same to the byte."""
    copy = tiny.copy(tmp_path / "work")
    for journal in copy.results.rglob(".*.journal"):
        journal.unlink()
    copy.call(*copy.snakemake("--forcerun", "session_check", "--until", "extract_join"))
    part = ("session/", "ctf/", "denoise/", "pick/", "extract/shard", "extract/particles")
    expected = {name: digest for name, digest in tiny.digests().items() if name.startswith(part)}
    got = copy.digests()
    assert {name: got.get(name) for name in expected} == expected


def test_pure_noise_ends_with_no_particles_and_a_plain_verdict(workspace_class, tiny_configuration, tmp_path):
    config = tiny_configuration
    config["project"] = "noise"
    config["input"] = {"micrographs": "results/noise-input/micrographs"}
    config["simulate"] = {
        "session": {"n_micrographs": 0, "n_noise_micrographs": 2, "micrograph_size_px": 512}
    }
    workspace = workspace_class(tmp_path / "work", config)
    workspace.call("emflow", "simulate", "session", "results/noise-input", "--config", "run.yaml")
    workspace.call(*workspace.snakemake())
    folder = workspace.results / "reconstruct" / "refine"
    said = (folder / "verdicts.json").read_text()
    assert "particles" in said
    verdicts = json.loads(said)
    assert not [row for row in verdicts if row["verdict"] == "pass"]
    page = (workspace.results / "report" / "index.html").read_text()
    assert "no particles" in page.lower()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tiny, tmp_path):
    copy = tiny.copy(tmp_path / "work")
    copy.results.chmod(0o500)
    try:
        assert "ermission" in copy.call(*copy.snakemake(), code=1)
    finally:
        copy.results.chmod(0o700)

"""Kills, two runs at once, broken micrographs, pure noise: the result is the same, or says what is wrong."""

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
from emflow.project.unlock import running_steps

POOLED = ("extract/particles.star", "extract/recentered/particles.star", "reconstruct/", "validate/")
"""What must not change when broken micrographs lie among the good ones."""


def _break_some(folder: Path) -> list[str]:
    """Put broken micrographs beside the good ones; return their names."""
    good = folder / "sim_00001.mrc"
    data = read_mrc(good)
    (folder / "zz_truncated.mrc").write_bytes(good.read_bytes()[:100_000])
    (folder / "zz_empty.mrc").write_bytes(b"")
    (folder / "zz_text.mrc").write_text("not an image")
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


def _python(pids: list[int]) -> list[int]:
    return [pid for pid in pids if "python" in psutil.Process(pid).name()]


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
        workspace.wait_for(lambda: _python(_steps(workspace, "refine")), run)
        os.kill(_python(_steps(workspace, "refine"))[0], signal.SIGKILL)
        said, _ = run.communicate()
    assert run.returncode == 1
    assert "reconstruct_refine" in said
    assert not (workspace.results / "report" / "index.html").exists()
    assert "Nothing was locked" in workspace.call("emflow", "unlock")
    workspace.call(*workspace.snakemake())
    assert "Nothing to be done" in workspace.call(*workspace.snakemake())

    expected, got = tiny.digests(), workspace.digests()
    same = [name for name in expected if name.startswith(POOLED)]
    assert len(same) > 15
    assert {name: got.get(name) for name in same} == {name: expected[name] for name in same}
    table = (workspace.results / "session" / "set_aside.star").read_text()
    assert [name for name in bad if name not in table] == []
    assert "sim_0000" not in table


def test_the_same_input_gives_the_same_bytes(tiny, tmp_path):
    """Results that a run made again in the same folder, without their journals, are the same to the byte."""
    copy = tiny.copy(tmp_path / "work")
    for journal in copy.results.rglob(".*.journal"):
        journal.unlink()
    copy.call(*copy.snakemake("--forcerun", "session_check", "--until", "extract_join"))
    part = ("session/", "ctf/", "pick/", "extract/shard", "extract/particles")
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

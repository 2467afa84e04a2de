"""A tiny session that comes in two parts, watched through real snakemake."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

from emflow.io.star import read_star
from emflow.project.lock import is_held


def test_a_session_that_comes_in_two_parts(workspace_class, tiny_configuration, tmp_path):
    config = tiny_configuration
    config["input"] = {"micrographs": "raw"}
    config["watch"] = {
        "look_every_s": 0.5, "settle_s": 2, "cycle_every_s": 1, "pooled_growth": None, "pooled_idle_minutes": None,
        "disk_free_gb": None,
    }  # fmt: skip
    workspace = workspace_class(tmp_path / "work", config)
    workspace.call("emflow", "simulate", "session", "results/tiny-input", "--config", "run.yaml")
    given = sorted((workspace.folder / "results/tiny-input/micrographs").glob("*.mrc"))
    raw = workspace.folder / "raw"
    raw.mkdir()
    shutil.copy(given[0], raw), shutil.copy(given[1], raw)
    (raw / given[2].name).write_bytes(given[2].read_bytes()[:500_000])

    def told() -> dict:
        path = workspace.results / "watch.json"
        return json.loads(path.read_text()) if path.exists() else {"micrographs": {"processed": 0}}

    def processed(count: int) -> bool:
        page = workspace.results / "report" / "index.html"
        said = told()
        return said["micrographs"]["processed"] == count and said["state"] == "watching" and page.exists()

    with workspace.start("emflow", "watch", "run.yaml", "--", "--cores", "1") as watcher:
        workspace.wait_for(lambda: processed(2), watcher, seconds=1500)
        assert [entry["name"] for entry in told()["waiting_files"]] == [f"raw/{given[2].name}"]
        page = (workspace.results / "report" / "index.html").read_text()
        assert "Acquisition" in page
        assert "from 2 micrographs; no validated map yet" in page
        # the same, asked by hand while the watcher lives: what is cut short is left alone
        assert not workspace.jobs("live")
        second = workspace.call("emflow", "watch", "run.yaml", code=2)
        assert f"process {watcher.pid}" in second
        (raw / given[2].name).write_bytes(given[2].read_bytes())
        shutil.copy(given[3], raw)
        workspace.wait_for(lambda: processed(4), watcher, seconds=1500)
        watcher.send_signal(signal.SIGTERM)
        said = workspace.said(watcher)
    assert watcher.returncode == 0, said
    assert told()["state"] == "stopped"
    assert not is_held(workspace.results)
    assert not list(workspace.folder.glob(".snakemake/locks/*"))
    lists = [
        read_star(path)["micrographs"]
        for path in sorted((workspace.results / "session").glob("shard_*.star"))
    ]
    names = [Path(name).name for table in lists for name in table["rlnMicrographName"]]
    assert names == [path.name for path in given], "in the order in which they came, the growing one once"
    assert not len(read_star(workspace.results / "session" / "set_aside.star")["set_aside"])

    assert not workspace.jobs("live"), "a run by hand finds nothing left to do"
    assert not workspace.jobs("live", "--config", "watch={settle_s: 5, webhook: 'http://127.0.0.1/'}")
    assert "http://" not in (workspace.results / "settings.yaml").read_text()
    rest = workspace.jobs()
    assert (
        not {"session_check", "ctf_fit", "denoise_apply", "pick_apply", "session_join", "extract_run"}
        & rest.keys()
    )
    assert {"extract_join", "reconstruct_refine", "report"} <= rest.keys()

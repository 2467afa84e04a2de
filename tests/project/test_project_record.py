"""The record of a whole tiny run, the run repeated from it, and the network that no step asks for."""

from __future__ import annotations

import json


def _as_list(value) -> list:
    return value if isinstance(value, list) else [value]


def test_the_crate_of_a_run_has_every_step_and_links_them(tiny, tmp_path):
    copy = tiny.copy(tmp_path / "work")
    said = copy.call("emflow", "record", "results/tiny")
    graph = {e["@id"]: e for e in json.loads((copy.results / "ro-crate-metadata.json").read_text())["@graph"]}
    actions = {
        name.removeprefix("#job/"): entity for name, entity in graph.items() if name.startswith("#job/")
    }
    records = {
        str(p.relative_to(copy.results / "records").with_suffix(""))
        for p in copy.results.rglob("records/*/*.json")
    }
    assert actions.keys() == records
    assert f"{len(records)} jobs" in said

    made = {part["@id"] for action in actions.values() for part in _as_list(action.get("result", []))}
    lists = {f"session/shard_0000{number}.star" for number in (1, 2)}
    for name, action in actions.items():
        read = [part["@id"] for part in _as_list(action["object"])]
        inside = {part for part in read if not part.startswith(("#", "file://", "./"))}
        assert inside <= made | lists, f"{name} reads what no job made"
        assert graph[action["instrument"]["@id"]]["@type"] == "SoftwareApplication"
        assert {graph[cost["@id"]]["propertyID"] for cost in action["resourceUsage"]} >= {"cpu_s", "wall_s"}
    for stack in ("extract/shard_00001.mrcs", "extract/recentered/shard_00002.mrcs"):
        assert stack in made
        assert "sha256" not in graph[stack], "stacks are large"
    for result in ("reconstruct/refine/map.mrc", "session/quality.star", "validate/metrics.json"):
        assert len(graph[result]["sha256"]) == 64
    weights = [
        part["@id"] for part in actions["denoise.apply/shard_00001"]["object"] if "weights/" in part["@id"]
    ]
    shipped = json.loads((copy.folder / "workflow").resolve().parent.joinpath(
        "emflow/denoise/weights/general.json").read_text())  # fmt: skip
    assert graph[weights[0]]["sha256"] == shipped["sha256"]

    workflow = graph["records/workflow/Snakefile"]
    steps = {graph[step["@id"]]["name"]: int(graph[step["@id"]]["position"]) for step in workflow["step"]}
    assert {
        "session.check",
        "ctf.fit",
        "pick.apply/denoised",
        "extract.join/recentered",
        "report",
    } <= steps.keys()
    assert steps["session.check"] < steps["extract.run"] < steps["reconstruct.refine"] < steps["report"]
    controls = [entity for entity in graph.values() if entity["@type"] == "ControlAction"]
    assert len(controls) == len(actions)
    micrographs = [graph[part["@id"]] for part in graph["#micrographs"]["hasPart"]]
    assert len(micrographs) == 12, "four micrographs and their half sums"
    assert all(int(entity["contentSize"]) > 0 for entity in micrographs)


def test_a_run_is_repeated_from_its_record_with_the_same_bytes(tiny, tmp_path):
    copy = tiny.copy(tmp_path / "work")
    copy.call("emflow", "record", "results/tiny", "--zip", "tiny.zip")
    steps = ("--steps", "session.check", "ctf.fit")
    said = copy.call("emflow", "reproduce", "tiny.zip", "--into", "again", *steps)
    table = {
        line.split()[0]: line.split()[1]
        for line in said.splitlines()
        if line.startswith(("session.", "ctf."))
    }
    assert table == {"session.check": "2", "ctf.fit": "4", "session.find": "2"}
    assert said.rstrip().endswith("Reproduced.")
    assert not (copy.folder / "again" / "results" / "tiny" / "extract").exists()

    changed = copy.results / "session" / "check" / "shard_00001.star"
    changed.write_text(changed.read_text().replace("sim_00001", "sim_00009"))
    copy.call("emflow", "record", "results/tiny")
    later = copy.results / "ctf" / "shard_00001.star"
    later.write_text(later.read_text() + "\n")
    said = copy.call(
        "emflow", "reproduce", "results/tiny/ro-crate-metadata.json", "--steps", "session.check", code=1
    )
    assert "Different:\n  session/check/shard_00001.star (session.check)" in said
    assert "rlnMicrographName: 33.3% of its texts differ" in said
    assert "ctf/shard_00001.star was changed after the record was made" in said
    assert "Not reproduced." in said


def test_no_step_of_the_chain_asks_for_the_network(tiny, tmp_path):
    assert not tiny.network.exists(), tiny.network.read_text()
    copy = tiny.copy(tmp_path / "work")
    code = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    assert "no network here" in copy.call("python", "-c", code, code=1)
    code = "import urllib.request as u; u.urlopen('http://example.org')"
    assert "no network here" in copy.call("python", "-c", code, code=1)
    assert [line.rsplit(": ", 1)[1] for line in copy.network.read_text().splitlines()] == [
        "192.0.2.1",
        "example.org",
    ]

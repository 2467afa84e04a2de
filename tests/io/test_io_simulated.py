"""Simulated sessions in one table."""

import json
from pathlib import Path

from emflow.io.simulated import write_sessions
from emflow.io.star import floats, read_star


def test_each_session_is_an_optics_group_and_ids_do_not_collide(tmp_path: Path) -> None:
    for number, pixel in ((0, 1.5), (1, 3.98)):
        session = tmp_path / f"session_{number:03d}"
        for folder in ("micrographs", "truth/clean"):
            (session / folder).mkdir(parents=True)
        for name in ("b.mrc", "a.mrc"):
            (session / "micrographs" / name).touch()
        facts = {"pixel_size_angstrom": pixel, "voltage_kv": 300, "cs_mm": 2.7, "amplitude_contrast": 0.07}
        (session / "truth" / "facts.json").write_text(json.dumps(facts))
    clean = tmp_path / "session_001" / "truth" / "clean" / "a.mrc"
    clean.touch()
    write_sessions(tmp_path / "all.star", [tmp_path / "session_000", tmp_path / "session_001"])
    tables = read_star(tmp_path / "all.star")
    assert floats(tables["optics"], "rlnMicrographPixelSize").tolist() == [1.5, 3.98]
    rows = tables["micrographs"]
    assert rows["rlnOpticsGroup"].tolist() == ["1", "1", "2", "2"]
    assert rows["emflowMicrographId"].is_unique
    assert rows["emflowMicrographId"].iloc[0] == "session_000-a"
    assert rows["emflowCleanName"].tolist() == ["None", "None", str(clean), "None"]

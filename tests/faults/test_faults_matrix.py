"""A part of the fault matrix of docs/faults.md, tried anew; all of it: python tests/faults/matrix.py."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import chain
import matrix
import mounts
import page

sys.path.pop(0)

SOME = {
    "session_check": list(matrix.FAULTS),
    "ctf_fit": ["kill -9", "SIGTERM", "disk full", "input gone", "input cut short"],
    "denoise_apply": ["kill -9", "disk full"],
    "session_select": ["kill -9", "clock jumps", "input cut short"],
    "session_join": ["kill -9", "SIGTERM", "over quota", "input cut short"],
    "extract_run": list(matrix.FAULTS),
    "extract_join": ["kill -9", "disk full", "input gone"],
    "reconstruct_abinitio": ["kill -9"],
}
STORED: dict[str, dict[str, str]] = json.loads(page.STORED.read_text())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc): faults come from a small library")
    folder = tmp_path_factory.mktemp("faults")
    with chain.Stage(folder) as stage:
        yield stage, *chain.build(stage, folder / "chain", only=frozenset(SOME) | {"pick_apply"})


@pytest.mark.parametrize("rule", SOME)
def test_a_step_under_faults_ends_as_the_table_says(built, rule):
    stage, steps, _ = built
    faults = SOME[rule]
    if not mounts.can_mount():
        faults = [fault for fault in faults if fault != "input read-only"]
    outcomes = matrix.try_faults(stage, steps[rule], faults, seed=2)
    for fault in set(outcomes) - {"no memory"}:  # how little is too little differs from machine to machine
        assert outcomes[fault] == STORED[rule][fault], fault


def test_the_table_is_that_of_the_last_whole_trial():
    text = page.PAGE.read_text()
    assert page.with_table(text, STORED, list(matrix.FAULTS)) == text, "run python tests/faults/matrix.py"
    assert {fault for cells in STORED.values() for fault in cells} == set(matrix.FAULTS)
    assert {outcome for cells in STORED.values() for outcome in cells.values()} <= set(page.LEGEND)


def test_the_table_has_every_verb_of_the_chain(built):
    assert set(built[2]) == set(STORED)
    assert all(set(cells) == set(matrix.tried(rule)) for rule, cells in STORED.items())

"""How many GPUs the rules ask for; what is asked for triggers no rerun."""

from __future__ import annotations

import json
import os

import pytest

from emflow.config import load_settings
from emflow.project.chain import Chain, export


@pytest.mark.parametrize(
    ("execution", "one", "several"),
    [({}, 1, 1), ({"gpus": 4}, 1, 4), ({"gpus": 0}, 1, 1), ({"gpus": 4, "device": "cpu"}, 0, 0)],
)
def test_a_step_that_can_use_several_gpus_asks_for_them(
    execution: dict[str, object], one: int, several: int
) -> None:
    chain = Chain(load_settings({"execution": execution}), {})
    assert (chain.gpu, chain.gpus) == (one, several)
    assert chain.section("denoise.train") == Chain(load_settings({}), {}).section("denoise.train")


def test_jobs_learn_how_to_share_but_their_number_of_gpus_from_the_scheduler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("EMFLOW_EXECUTION", "EMFLOW_LINEAGE", "EMFLOW_PARENT", "PATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    export(load_settings({"execution": {"gpus": 4, "jobs_per_gpu": 2}}), {})
    told = json.loads(os.environ["EMFLOW_EXECUTION"])
    assert told["jobs_per_gpu"] == 2
    assert "gpus" not in told

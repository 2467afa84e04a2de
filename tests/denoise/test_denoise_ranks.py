"""Training in several processes: the same model, written once; a failure and a kill end all of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from emflow.denoise import command
from emflow.denoise.config import DenoiseTrain
from emflow.nn.weights import read_model
from emflow.step import EmflowError, Run

SMALL = DenoiseTrain(steps=12, batch=6, crop_px=64, start="scratch", widths=(8, 12), max_micrographs=3)


def start(session: Path, out: Path, gpus: int, **changes: object) -> subprocess.Popen[str]:
    """Start a training on the CPU in a process of its own, as a shell would."""
    cfg = SMALL.model_copy(update=changes).model_dump_json()
    words = ["denoise", "train", str(session), str(out), "--json", cfg, "--record", str(out / "record.json")]
    how = ["--device", "cpu", "--threads", str(gpus), "--gpus", str(gpus)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EMFLOW_")}
    return subprocess.Popen(
        [sys.executable, "-m", "emflow.cli", *words, *how], env=environment, stderr=subprocess.PIPE, text=True
    )


def weights(folder: Path) -> torch.Tensor:
    state = read_model(folder / "model.safetensors").state
    return torch.cat([state[name].flatten() for name in sorted(state)])


def ranks_of(pid: int) -> list[int]:
    """Processes that were started by one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return sorted(found)


def until(what: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.05)


def test_the_model_does_not_depend_on_the_number_of_processes(session: Path, tmp_path: Path) -> None:
    """Six crops a step: three each, or one and two each; one after another they add up to the same gradient."""
    command.train(session, tmp_path / "1", cfg=SMALL, run=Run(device="cpu"))
    alone = weights(tmp_path / "1")
    for gpus in (2, 4):
        out = tmp_path / str(gpus)
        out.mkdir()
        with start(session, out, gpus) as process:
            said = process.communicate()[1]
        assert process.returncode == 0, said
        assert said.count("working in") == 1
        assert said.count("step 12 of 12") == 1  # the first rank tells it for all
        away = float((weights(out) - alone).abs().max() / alone.abs().max())
        assert away < 2e-5  # rounding: the same crops are added in another order
        files = {path.name for path in out.iterdir()}
        assert files == {path.name for path in (tmp_path / "1").iterdir()} | {"record.json"}
        record = json.loads((out / "record.json").read_text())
        assert record["ranks"] == gpus
        assert record["ranks_cpu_s"] > record["cpu_s"]
        losses = [json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("1", str(gpus))]
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_one_process_that_fails_ends_all_with_its_reason(session: Path, tmp_path: Path) -> None:
    with start(session, tmp_path / "model", 2, steps=100000) as process:
        until(lambda: len(ranks_of(process.pid)) == 2)
        time.sleep(1)
        victim = ranks_of(process.pid)[1]
        os.kill(victim, signal.SIGKILL)
        said = process.communicate()[1]
    assert process.returncode == 2
    assert "was killed by signal 9" in said
    assert ranks_of(process.pid) == []


def test_a_broken_input_is_told_once_and_by_name(session: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "even" / "m0.mrc").unlink()
    (tmp_path / "in" / "even" / "m1.mrc").unlink()
    with start(session, tmp_path / "other", 2, target="halves") as process:
        said = process.communicate()[1]
    assert process.returncode == 2
    assert "of 2: denoise train: 1 of 3 micrographs can be learned from" in said


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_one_that_started_them(session: Path, tmp_path: Path, how: int) -> None:
    with start(session, tmp_path / "model", 2, steps=100000) as process:
        until(lambda: len(ranks_of(process.pid)) == 2)
        ranks = ranks_of(process.pid)
        os.kill(process.pid, how)
        process.communicate()
        until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in ranks))
    assert process.returncode != 0
    assert not (tmp_path / "model" / "model.safetensors").exists()


def test_more_processes_than_crops_are_refused(session: Path, tmp_path: Path) -> None:
    with pytest.raises(EmflowError, match=r"denoise\.train\.batch only 6"):
        command.train(session, tmp_path / "m", cfg=SMALL, run=Run(device="cpu", gpus=7))
    with pytest.raises(EmflowError, match="one device"):
        command.train(session, tmp_path / "m", cfg=SMALL, run=Run(device="cuda:1", gpus=2))

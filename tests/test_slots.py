"""Each job gets a GPU of its own: locks among processes, and what nvidia-smi and CUDA_VISIBLE_DEVICES say."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from emflow import device, slots
from emflow.slots import Gpu
from emflow.step import EmflowError, Execution

LISTING = """GPU 0: NVIDIA A100 (UUID: GPU-aaaa-0)
GPU 1: NVIDIA A100 (UUID: GPU-aabb-1)
GPU 2: NVIDIA A100 (UUID: GPU-cccc-2)
  MIG 1g.5gb      Device  0: (UUID: MIG-d1)
  MIG 1g.5gb      Device  1: (UUID: MIG-d2)
"""
MEMORY = "GPU-aaaa-0, 30000, 40000\nGPU-aabb-1, 4, 40000\nGPU-cccc-2, [N/A], [N/A]\n"
TWO = [Gpu("a", "a", "0"), Gpu("b", "b", "1")]
FOUR = [*TWO, Gpu("c", "c", "2"), Gpu("d", "d", "3")]

HOLDER = """
import sys, time
from pathlib import Path
from emflow.slots import Gpu, take
grant = take([Gpu(name, name) for name in sys.argv[2].split(",")], int(sys.argv[3]), folder=Path(sys.argv[1]))
print(",".join(gpu.name for gpu in grant.gpus), flush=True)
time.sleep(float(sys.argv[4]))
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """A function that puts an nvidia-smi with given answers first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(listing: str = LISTING, memory: str = MEMORY) -> None:
        (folder / "listing").write_text(listing)
        (folder / "memory").write_text(memory)
        script = folder / "nvidia-smi"
        script.write_text(f"#!/bin/sh\ncase $1 in -L) cat {folder}/listing;; *) cat {folder}/memory;; esac\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return make


def holder(folder: Path, names: str, wanted: int, seconds: float = 60) -> subprocess.Popen[str]:
    """A process that takes slots and holds them; it says which once it has them."""
    words = [sys.executable, "-c", HOLDER, str(folder), names, str(wanted), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(
    ("mask", "tokens"),
    [
        (None, ["GPU-aaaa-0", "GPU-aabb-1", "MIG-d1", "MIG-d2"]),
        ("1,0", ["1", "0"]),  # the user's numbers are kept
        ("0,7,1", ["0"]),  # as for CUDA: what follows an unknown one does not count
        ("1,1", ["1"]),
        ("2", ["MIG-d1", "MIG-d2"]),  # a divided card stands for its instances
        ("MIG-d2", ["MIG-d2"]),
        ("GPU-aab", ["GPU-aabb-1"]),
        ("GPU-aa", []),  # two begin so
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_the_mask_leaves_what_cuda_would_see(
    smi: Callable[[], None], mask: str | None, tokens: list[str]
) -> None:
    smi()
    environment = {} if mask is None else {"CUDA_VISIBLE_DEVICES": mask}
    gpus = slots.visible(environment)
    assert [gpu.token for gpu in gpus] == tokens
    assert all(
        gpu.name.startswith(("GPU-", "MIG-")) for gpu in gpus
    )  # locked by what it is, whatever it is called


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slots.visible({"CUDA_VISIBLE_DEVICES": "0"}) == []


def test_the_emptiest_gpu_is_taken_and_a_crowded_one_is_told(
    smi: Callable[[], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    smi()
    gpus = slots.visible({"CUDA_VISIBLE_DEVICES": "0,1"})
    with caplog.at_level(logging.WARNING, "emflow"):
        first = slots.take(gpus, 1, folder=tmp_path)
        assert [gpu.index for gpu in first.gpus] == ["1"]
        assert not caplog.messages
        second = slots.take(gpus, 1, folder=tmp_path)
        assert [gpu.index for gpu in second.gpus] == ["0"]
        assert "other programs hold 29.3 of its 39.1 GB" in caplog.messages[0]
    first.release()
    second.release()


def test_a_job_waits_rather_than_share_and_a_killed_one_frees_its_gpu(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with holder(tmp_path, "a,b", 2) as other, caplog.at_level(logging.WARNING, "emflow"):
        assert said(other) == "a,b"
        killer = threading.Timer(1.0, other.send_signal, [signal.SIGKILL])
        killer.start()
        grant = slots.take(TWO, 1, folder=tmp_path)
        assert other.wait() == -signal.SIGKILL  # not before
    assert len(caplog.messages) == 1
    assert "Waiting for 1 of 2 GPUs" in caplog.messages[0]
    assert len(grant.gpus) == 1
    grant.release()


def test_many_gpus_are_taken_at_once_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    """Jobs of four, two, three and one GPUs in any order: all come through, none with another's GPU."""
    running = [holder(tmp_path, "a,b,c,d", wanted, 0.3) for wanted in (4, 2, 3, 1, 4, 2)]
    got = []
    for process in running:
        got.append(said(process).split(","))
        assert process.wait(60) == 0
        process.stdout.close()  # type: ignore[union-attr]
    assert [len(names) for names in got] == [4, 2, 3, 1, 4, 2]
    assert all(len(set(names)) == len(names) for names in got)
    assert len(slots.take(FOUR, 4, folder=tmp_path).gpus) == 4


def test_sharing_is_by_agreement_only(tmp_path: Path) -> None:
    grants = [slots.take(TWO, 1, sharers=2, folder=tmp_path) for _ in range(4)]
    names = [grant.gpus[0].name for grant in grants]
    assert names == ["a", "b", "a", "b"]  # an empty one before a shared one
    for sharers in (1, 2):
        assert slots._try(TWO, 1, sharers, tmp_path).gpus == []  # two each is all, and nobody gets one alone
    grants[0].release()
    alone = slots._try(TWO, 1, 1, tmp_path)
    assert alone.gpus == []  # still another on each
    again = slots.take(TWO, 1, sharers=2, folder=tmp_path)
    assert again.gpus[0].name == "a"
    for grant in (*grants, again):
        grant.release()


def test_what_cannot_be_had_is_said(tmp_path: Path) -> None:
    with pytest.raises(EmflowError, match=r"asks for 3 GPUs \(execution\.gpus\), but may use 2"):
        slots.take(TWO, 3, folder=tmp_path)
    with pytest.raises(EmflowError, match="MIG"):
        slots.take([Gpu("MIG-1", "MIG-1"), Gpu("MIG-2", "MIG-2")], 2, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_locks_are_for_all_users_and_no_link_is_followed(tmp_path: Path) -> None:
    slots.take(TWO[:1], 1, folder=tmp_path).release()
    (lock,) = tmp_path.glob("emflow-gpu-a.lock")
    assert lock.stat().st_mode & 0o777 == 0o644
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        slots.take(TWO[:1], 1, folder=tmp_path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str | None]]:
    """A torch that would see GPUs; what CUDA_VISIBLE_DEVICES said when it was first asked."""
    asked: list[str | None] = []

    def available() -> bool:
        asked.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
        return True

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", available)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(slots, "FOLDER", tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(device, "_held", [])
    environment = dict(os.environ)
    yield asked
    for grant in device._held:
        grant.release()
    os.environ.clear()
    os.environ.update(environment)


def test_the_gpu_is_chosen_before_cuda_is_asked_anything(
    smi: Callable[[], None], cuda: list[str | None]
) -> None:
    smi()
    assert device.choose_device("auto") == torch.device("cuda", 0)
    assert cuda[0] == "GPU-aabb-1"  # the emptiest; CUDA sees no other
    assert device.choose_device("auto") == torch.device("cuda", 0)  # the same for a second step
    assert len(device._held) == 1


def test_a_device_by_name_counts_among_those_of_the_mask(
    smi: Callable[[], None], cuda: list[str | None]
) -> None:
    smi()
    os.environ["CUDA_VISIBLE_DEVICES"] = "1,0"
    assert device.choose_device("cuda:1") == torch.device("cuda", 0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    device._held.pop().release()
    os.environ["CUDA_VISIBLE_DEVICES"] = "1"
    with pytest.raises(EmflowError, match="1 GPUs for this job"):
        device.choose_device("cuda:1")


def test_what_slurm_granted_is_divided_within_its_job_only(
    smi: Callable[[], None], cuda: list[str | None], tmp_path: Path
) -> None:
    smi()
    os.environ |= {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "1"}
    other = slots.take(
        [Gpu("GPU-aabb-1", "1")], 1, folder=tmp_path
    )  # as when SLURM lets two jobs share a card
    assert device.choose_device("auto") == torch.device("cuda", 0)
    os.environ["CUDA_VISIBLE_DEVICES"] = (
        "0,1"  # an allocation that several local jobs divide among themselves
    )
    first = device._held.pop()
    device.choose_device("auto")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"  # the emptier one is the first's
    other.release()
    first.release()


def test_without_nvidia_smi_devices_go_by_number(
    cuda: list[str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Some containers have the driver only: torch counts, and CUDA_VISIBLE_DEVICES can no longer be set for itself."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    other = slots.take([Gpu("3", "3")], 1, folder=tmp_path)
    assert device.choose_device("auto") == torch.device("cuda", 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert device.held_tokens() == "5"
    other.release()


def test_a_step_whose_rule_asks_for_no_gpu_takes_none(
    smi: Callable[[], None], cuda: list[str | None]
) -> None:
    smi()
    assert device.prepare(Execution(), gpu=False) == torch.device("cpu")
    assert device._held == []
    assert device.prepare(Execution(device="cuda"), gpu=False).type == "cuda"  # asked for by name


def test_no_gpu_means_the_cpu_or_an_error(
    smi: Callable[[str], None], cuda: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    smi("")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.choose_device("auto") == torch.device("cpu")
    with pytest.raises(EmflowError, match=r"execution\.device"):
        device.choose_device("cuda")


def test_the_command_line_stays_light() -> None:
    code = "import sys, emflow.slots, emflow.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.strip().lower()) is False

"""The doctor on machines that are made up: other programs on PATH, other limits, other file systems."""

from __future__ import annotations

import errno
import fcntl
import json
import resource
import stat
from pathlib import Path

import pytest
import torch

from emflow.project import command, doctor, doctor_disk, doctor_gpu, doctor_software
from emflow.step import EmflowError

CSV = "NVIDIA A100, 40960, 40000, 535.104.05"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Put scripts on a PATH that holds nothing else; each is the body of a shell script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(doctor_gpu, "driver", lambda: None)
    monkeypatch.chdir(tmp_path)

    def put(**bodies):
        for name, body in bodies.items():
            path = folder / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\n{body}\n")
            path.chmod(path.stat().st_mode | stat.S_IEXEC)

    return put


def _smi(csv: str, cuda: str) -> str:
    return f"case \"$1\" in --query-gpu*) echo '{csv}';; *) echo '| CUDA Version: {cuda} |';; esac"


def _found(check, what):
    return [finding for finding in check() if finding.what == what]


def test_without_gpu_and_scheduler_it_says_so_what_follows_and_what_to_do(programs, capsys):
    command.doctor()
    said = capsys.readouterr().out
    for line, so, do in (
        ("device: no GPU here", "ten to a hundred times longer", "--profile slurm"),
        ("scheduler: no SLURM here", "on this machine only", "profiles/local"),
    ):
        block = said.split(line)[1].split("\n")
        assert so in block[1]
        assert block[1].strip().startswith("so:")
        assert do in block[2]
        assert block[2].strip().startswith("do:")


def test_json_holds_every_finding(programs, capsys):
    command.doctor(json=True)
    findings = json.loads(capsys.readouterr().out)
    assert {"device", "scheduler", "results", "scratch", "weights", "versions", "clock"} <= {
        f["what"] for f in findings
    }
    assert all(f["state"] in ("ok", "warn", "fail") for f in findings)
    assert all(f["consequence"] and f["action"] for f in findings if f["state"] != "ok")


def test_a_torch_without_cuda_beside_a_driver(programs, monkeypatch):
    programs(nvidia_smi=_smi(CSV, "12.2"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    (finding,) = _found(doctor_gpu.devices, "device")
    assert finding.state == "warn"
    assert "A100, driver 535.104.05 (up to CUDA 12.2)" in finding.found
    assert "CPU build" in finding.found
    assert "CUDA 12.2 or older" in finding.action


@pytest.mark.parametrize(
    ("built", "visible", "why", "action"),
    [
        ("13.0", None, "too old", "Update the driver"),
        ("12.1", "", "CUDA_VISIBLE_DEVICES is ''", "Unset"),
        ("12.1", None, "does not reach it", "/dev/nvidia"),
    ],
)
def test_a_driver_that_torch_cannot_use(programs, monkeypatch, built, visible, why, action):
    programs(nvidia_smi=_smi(CSV, "12.2"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (finding,) = _found(doctor_gpu.devices, "device")
    assert why in finding.found
    assert action in finding.action


def test_a_driver_that_does_not_answer(programs, monkeypatch):
    programs(nvidia_smi="echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (finding,) = _found(doctor_gpu.devices, "device")
    assert "Driver/library version mismatch" in finding.found
    assert finding.action


def test_gpus_with_their_free_memory_and_one_of_an_unknown_kind(programs, monkeypatch):
    class Facts:
        def __init__(self, name, major):
            self.name, self.major, self.minor = name, major, 0

    cards = [Facts("A100", 8), Facts("A100", 8), Facts("K20", 3)]
    free = [70e9, 1e9, 4e9]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: cards[index])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free[index], 80e9 if index < 2 else 5e9))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    findings = _found(doctor_gpu.devices, "device")
    assert [finding.state for finding in findings] == ["ok", "warn", "fail"]
    assert "cuda:0 A100, 70 of 80 GB free" in findings[0].found
    assert "not sm_30" in findings[2].found


def test_slurm_with_and_without_an_answer(programs):
    programs(sbatch="exit 0", sinfo="exit 1")
    (finding,) = _found(doctor._scheduler, "scheduler")
    assert "sinfo does not answer" in finding.found
    programs(sbatch="exit 0", sinfo="echo 'cpu* (null)'")
    assert _found(doctor._scheduler, "site file")[0].state == "warn"
    assert _found(doctor._scheduler, "profile")[0].state == "warn"
    programs(sbatch="exit 0", sinfo="echo 'gpu* gpu:a100:4'")
    Path("site.yaml").write_text("")
    Path("slurm").mkdir()
    assert [finding.state for finding in doctor._scheduler()] == ["ok", "ok"]


def test_a_program_that_hangs_or_says_nonsense_makes_no_doctor_ill(programs, monkeypatch):
    programs(nvidia_smi="printf '\\377\\376 nonsense'; exit 0", sbatch="exit 0", sinfo="printf '\\377'")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    states = [finding.state for finding in doctor.examine()]
    assert "fail" not in states

    def broken():
        raise RuntimeError("driver too old")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    failed = [finding for finding in doctor.examine() if finding.state == "fail"]
    assert [finding.found for finding in failed] == ["could not be examined: RuntimeError: driver too old"]


def test_kinds_of_file_systems_are_told_by_the_longest_mount(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"2 1 0:5 / {tmp_path} rw - lustre server:/a rw\n"
        f"3 1 0:6 / {tmp_path}/my\\040data rw shared:1 - nfs4 server:/b rw\n"
        "nonsense\n"
    )
    (tmp_path / "my data").mkdir()
    assert doctor_disk.file_system(tmp_path / "my data", mounts) == "nfs4"
    assert doctor_disk.file_system(tmp_path, mounts) == "lustre"
    assert doctor_disk.file_system(Path("/"), mounts) == "ext4"
    assert doctor_disk.file_system(Path("/"), tmp_path / "none") == "unknown"


def test_a_clock_that_is_off_a_file_system_without_locks_few_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctor_disk.clock(0.5).state == "ok"
    assert "120.0 s behind" in doctor_disk.clock(-120).found

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (locks,) = _found(doctor_disk.rights, "locks")
    assert locks.state == "warn"
    assert "No locks available" in locks.found
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    (files,) = doctor_disk.open_files()
    assert files.state == "warn"
    assert "ulimit -n 4096" in files.action


def test_a_scratch_folder_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "gone"))
    (finding,) = _found(doctor_disk.space, "node's scratch")
    assert finding.state == "fail"
    assert "TMPDIR" in finding.action


def test_versions_beside_the_pinned_ones(tmp_path):
    pins = tmp_path / "constraints.txt"
    pins.write_text(f"# comment\ntorch=={torch.__version__.partition('+')[0]}\nNumPy==0.1  # old\n")
    (finding,) = doctor_software.pins(pins)
    assert finding.state == "warn"
    assert "numpy" in finding.found
    assert "(0.1)" in finding.found
    assert "torch" not in finding.found, "a build's mark is no other version"
    assert next(iter(doctor_software.pins(tmp_path / "none"))).state == "ok"


def test_weights_that_are_damaged_or_lost(tmp_path):
    assert next(iter(doctor_software.weights())).state == "ok"
    (tmp_path / "w.safetensors").write_bytes(b"x")
    (tmp_path / "w.json").write_text('{"sha256": "0"}')
    (finding,) = doctor_software.weights(tmp_path)
    assert "w.safetensors is not what its manifest says" in finding.found
    (tmp_path / "w.json").unlink()
    assert "w.safetensors: " in next(iter(doctor_software.weights(tmp_path))).found
    (tmp_path / "w.safetensors").unlink()
    assert "none are shipped" in next(iter(doctor_software.weights(tmp_path))).found


def test_a_machine_that_is_not_ready_ends_with_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "gone"))
    with pytest.raises(EmflowError, match="not ready"):
        command.doctor(json=True)
    assert json.loads(capsys.readouterr().out), "JSON is whole all the same"

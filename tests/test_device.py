"""Devices, and how much memory a step may plan with."""

from __future__ import annotations

import pytest
import torch

from emflow import device
from emflow.step import EmflowError, Execution


def test_a_gpu_asked_for_by_name_is_never_replaced_silently(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.choose_device("auto") == torch.device("cpu")
    with pytest.raises(EmflowError, match=r"execution\.device"):
        device.choose_device("cuda:1")


def test_random_numbers_depend_on_seed_and_stream_alone():
    first, again = (torch.rand(4, generator=device.generator(3, 1, 2)) for _ in range(2))
    assert torch.equal(first, again)
    for other in (device.generator(3, 2, 1), device.generator(4, 1, 2), device.generator(3, 1)):
        assert not torch.equal(first, torch.rand(4, generator=other))


def test_memory_is_what_was_granted_not_what_the_machine_has(monkeypatch, tmp_path):
    cpu = torch.device("cpu")
    assert device.free_memory_bytes(cpu, Execution(memory_gb=2)) == 2_000_000_000
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")
    assert device.free_memory_bytes(cpu) <= 100 * 2**20
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert min(device._granted_bytes(tmp_path)) in (600.0, float("inf"))  # infinite without cgroup 2

"""The cluster as a site has it: read, guessed from SLURM, and fitted to what the rules ask for."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_slurm as executor
from snakemake.resources import Resources

from emflow.project import site as site_module
from emflow.project.command import init
from emflow.project.gpus import count_gpus
from emflow.project.guess import guess_site, status_command
from emflow.project.site import Site, find_site, fit_to_site, load_site
from emflow.project.slurm_states import heed_cancelled_jobs
from emflow.step import EmflowError

SINFO = """\
batch*|2-00:00:00|48|190000|(null)
batch*|2-00:00:00|64|500000|(null)
long|30-00:00:00|48|190000|(null)
gpu|1-12:00:00|64|500000|gpu:a100:4(S:0-1)
gpu|1-12:00:00|32|250000|gpu:tesla_v100-sxm2:2(S:0)
gpu-long|infinite|64|500000|nvme:1,gpu:a100:4(S:0-1)
gpu-test|30:00|64|500000|gpu:2
"""
SCONTROL = """\
PartitionName=batch AllowGroups=ALL Default=YES MaxCPUsPerNode=UNLIMITED MaxMemPerNode=UNLIMITED
PartitionName=gpu AllowGroups=ALL Default=NO MaxCPUsPerNode=16 MaxMemPerNode=120000
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder on PATH with commands that answer as a cluster's do, and an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()

    def answer(command: str, text: str) -> None:
        (tmp_path / f"{command}.txt").write_text(text)
        path = tmp_path / "bin" / command
        path.write_text(f"#!/bin/sh\ncat {tmp_path}/{command}.txt\n")
        path.chmod(0o755)

    answer("sinfo", SINFO)
    answer("scontrol", SCONTROL)
    answer("sacctmgr", "cryo\n")
    return answer


def test_slurm_is_asked_for_partitions_limits_gpus_and_the_account(cluster):
    guess = guess_site()
    assert guess.site.account == "cryo"
    assert list(guess.site.partitions) == ["batch", "gpu", "gpu-long"], "the default one, and those with GPUs"
    assert list(guess.unused) == ["long", "gpu-test"]
    batch, gpu, long = guess.site.partitions.values()
    assert (batch.max_hours, batch.max_memory_gb, batch.max_threads, batch.gpus) == (48, 500, 64, 0)
    assert (gpu.max_hours, gpu.max_memory_gb, gpu.max_threads, gpu.gpus) == (36, 120, 16, 4)
    assert (long.max_hours, long.gpus) == (None, 4)
    assert guess.gpu_types == ("a100", "tesla_v100-sxm2")


def test_init_writes_what_can_be_read_again_and_never_overwrites_it(cluster, capsys):
    init()
    assert "batch (48 h, 64 cores, 500 GB), gpu (36 h" in capsys.readouterr().out
    assert load_site(Path("site.yaml")) == guess_site().site
    Path("site.yaml").write_text("account: other\n")
    with pytest.raises(EmflowError, match="not overwritten"):
        init()
    assert Path("site.yaml").read_text() == "account: other\n"


def test_the_projects_file_wins_over_the_users(cluster):
    assert find_site() is None
    own = Path.home() / ".config" / "emflow" / "site.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("")
    assert find_site() == own
    Path("site.yaml").write_text("")
    assert find_site() == Path("site.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("acount: cryo", "site.yaml: acount: no such key. Did you mean account?"),
        (
            "partitions: {gpu: {max_hour: 1}}",
            r"site.yaml: partitions.gpu.max_hour: .*partitions.gpu.max_hours\?",
        ),
        ("partitions: {gpu: {max_hours: soon}}", "site.yaml: partitions.gpu.max_hours = 'soon'"),
        ("partitions: [gpu]", "site.yaml: partitions: expected names"),
        ("partitions: {gpu: 3}", "site.yaml: partitions.gpu: expected keys and values, found 3"),
        ("account: [", "site.yaml: not valid YAML"),
    ],
)
def test_a_mistake_names_file_and_key(tmp_path, text, said):
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(EmflowError, match=said):
        load_site(path)


def test_a_partition_that_slurm_lacks_stops_before_any_job(cluster, monkeypatch, capsys):
    cluster("sinfo", "batch\ngpu\n")
    Path("site.yaml").write_text("partitions: {gpus: {gpus: 1}}")
    monkeypatch.setenv("EMFLOW_SITE", "")
    with pytest.raises(SystemExit) as stop:
        site_module.open_site()
    assert stop.value.code == 2
    assert "partitions.gpus: SLURM has no partition gpus here. It has batch, gpu." in capsys.readouterr().err


def test_where_slurm_does_not_answer_a_plan_can_be_made_but_no_run(cluster, monkeypatch, capsys):
    (Path("bin") / "sinfo").write_text("#!/bin/sh\necho 'sinfo: error: down' >&2\nexit 1\n")
    monkeypatch.setattr(site_module, "_unanswered", [])
    monkeypatch.setenv("EMFLOW_SITE", "")
    assert site_module.open_site() == Site()
    workflow = SimpleNamespace(is_main_process=True, rules=[], output_settings=SimpleNamespace(dryrun=True))
    fit_to_site(workflow)
    workflow.output_settings.dryrun = False
    with pytest.raises(SystemExit):
        fit_to_site(workflow)
    assert "sinfo does not answer (sinfo: error: down)" in capsys.readouterr().err


def test_a_site_without_accounts_of_jobs_is_asked_otherwise(cluster):
    cluster("sacct", "")
    assert status_command() == "sacct"
    (Path("bin") / "sacct").write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
    assert status_command() == "squeue"
    cluster("sacctmgr", "")
    assert guess_site().site.account is None


def test_a_cancelled_job_is_seen_as_such(monkeypatch):
    async def query(command: str, logger: object) -> tuple[dict[str, str] | None, float]:
        return {"1": "CANCELLED by 1000", "2": "RUNNING"} if command else None, 0.1

    monkeypatch.setattr(executor, "query_job_status", query)
    heed_cancelled_jobs()
    assert asyncio.run(executor.query_job_status("sacct", None))[0] == {"1": "CANCELLED", "2": "RUNNING"}
    assert asyncio.run(executor.query_job_status("", None))[0] is None, "SLURM did not answer"


SITE = Site.model_validate(
    {
        "scratch": "/scratch/$WHO",
        "partitions": {
            "short": {"max_hours": 2, "max_memory_gb": 50, "max_threads": 8},
            "big": {"max_hours": 48, "max_memory_gb": 500, "max_threads": 8},
            "gpu": {"max_hours": 12, "max_memory_gb": 100, "max_threads": 32, "gpus": 1},
            "gpu-long": {
                "max_hours": 48,
                "max_memory_gb": 100,
                "max_threads": 32,
                "gpus": 2,
                "gpu_type": "a100",
            },
        },
    }
)


def _asks(site: Site, monkeypatch, attempt: int = 1, **asked: object) -> dict[str, object]:
    """What a rule's job asks for at an attempt, fitted to the site; evaluated as Snakemake does."""
    monkeypatch.setenv("EMFLOW_SITE", site.model_dump_json())
    rule = SimpleNamespace(resources=Resources.from_mapping({"_cores": 1, **asked}))
    fit_to_site(SimpleNamespace(is_main_process=False, rules=[rule]))
    threads = rule.resources["_cores"].evaluate({}, attempt=attempt).value
    found = rule.resources.expand_items(
        constraints={}, evaluate=lambda resource: resource.evaluate({}, attempt=attempt, threads=threads)
    )
    return {key: value for key, value in found if value is not None}


@pytest.mark.parametrize(
    ("asked", "attempt", "expected"),
    [
        ({"mem_mb": 2000}, 1, {"slurm_partition": "short", "runtime": 100}),
        ({"mem_mb": 2000}, 2, {"slurm_partition": "big", "runtime": 200}),
        ({"mem_mb": 600_000}, 1, {"slurm_partition": "big", "mem_mb": 500_000}),
        ({"mem_mb": 2000, "_cores": 16}, 1, {"slurm_partition": "short", "_cores": 8}),
        ({"gpu": 1}, 1, {"slurm_partition": "gpu", "gpu": 1, "nodes": 1}),
        ({"gpu": 2}, 1, {"slurm_partition": "gpu-long", "gpu": 2, "gpu_model": "a100"}),
        ({"gpu": 8}, 1, {"slurm_partition": "gpu-long", "gpu": 2}),
        ({"gpu": 1}, 8, {"slurm_partition": "gpu-long", "runtime": 800}),
        ({"gpu": 1}, 99, {"slurm_partition": "gpu-long", "runtime": 48 * 60}),
        ({"slurm_partition": "big", "mem_mb": 2000}, 1, {"slurm_partition": "big"}),
        ({"slurm_partition": "elsewhere"}, 99, {"slurm_partition": "elsewhere", "runtime": 9900}),
    ],
)
def test_a_job_goes_to_the_first_partition_with_room_cut_to_its_limits(monkeypatch, asked, attempt, expected):
    given = {"runtime": lambda wildcards, attempt: 100 * attempt, **asked}
    found = _asks(SITE, monkeypatch, attempt, **given)
    assert {key: found.get(key) for key in expected} == expected
    assert ("gpu_model" in found) == (found["slurm_partition"] == "gpu-long")


def test_scratch_is_found_on_the_node(monkeypatch):
    monkeypatch.setenv("WHO", "anna")
    assert _asks(SITE, monkeypatch, runtime=1)["tmpdir"] == "/scratch/anna"


def test_a_site_without_gpus_runs_gpu_steps_without(monkeypatch):
    cpu_only = Site.model_validate({"partitions": {"batch": {"max_hours": 2}, "long": {}}})
    found = _asks(cpu_only, monkeypatch, gpu=1, runtime=10)
    assert (found["gpu"], found["slurm_partition"]) == (0, "batch")


def test_a_site_that_lists_no_partition_leaves_requests_as_they_are(monkeypatch):
    found = _asks(Site(), monkeypatch, gpu=1, runtime=10, mem_mb=10**6)
    assert (found["gpu"], found["runtime"], found["mem_mb"]) == (1, 10, 10**6)
    assert "slurm_partition" not in found


@pytest.mark.parametrize(
    ("visible", "count"),
    [(None, 2), ("", 0), ("-1", 0), ("0", 1), ("1,0", 2), ("0,7,1", 1), ("GPU-bbbb", 1), ("GPU-cccc", 0)],
)
def test_gpus_are_counted_as_cuda_sees_them(cluster, monkeypatch, visible, count):
    cluster("nvidia-smi", "GPU 0: H200 (UUID: GPU-aaaa-1)\nGPU 1: H200 (UUID: GPU-bbbb-2)\n")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_gpus() == count


def test_a_gpu_cut_into_instances_counts_as_these(cluster, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cluster(
        "nvidia-smi",
        "GPU 0: H200 (UUID: GPU-a)\n  MIG 3g.71gb Device 0: (UUID: MIG-x)\n  MIG 3g.71gb Device 1: (UUID: MIG-y)\n",
    )
    assert count_gpus() == 2


def test_without_a_driver_there_is_no_gpu(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert count_gpus() == 0

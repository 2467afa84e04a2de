"""The whole chain through `snakemake --profile slurm` on a real SLURM, disturbed in every way that a day brings.

One run, since each job costs: one job is cancelled, one killed, one hangs until its time is over; then Snakemake
itself is killed with jobs queued. What comes out is compared with the undisturbed local run.
"""

from __future__ import annotations

import itertools
import re
import signal
import time
from collections import Counter
from collections.abc import Callable

import psutil
import pytest

from emflow.project.site import load_site


def _wait(what: Callable[[], object], seconds: float = 1800.0) -> object:
    """Wait until something is true, and return it; SLURM is not asked more often than a person would."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.5)
    return found


def _step(project, *words: str) -> psutil.Process | None:
    """The running process of a step of this project."""
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(project.folder) and process.cmdline()[2:4] == list(words):
                return process
        except psutil.Error:
            continue
    return None


def _hang(project, cluster) -> bool:
    """Let a step stand still, as on a file system that hangs, if one is there."""
    step = _step(project, "denoise", "apply")
    if step:
        step.suspend()
    return step is not None


def _kill(project, cluster) -> bool:
    """Kill a step, if one is there."""
    step = _step(project, "pick", "apply")
    if step:
        step.kill()
    return step is not None


def _cancel(project, cluster) -> bool:
    """Cancel a job, if one is there."""
    jobs = [
        number for what, number in cluster.queued(project.folder).items() if what.startswith("rule_ctf_fit")
    ]
    if jobs:
        cluster.ask("scancel", jobs[0])
    return bool(jobs)


def _completed(cluster, project) -> Counter[str]:
    """How many jobs of each rule have ended well."""
    jobs = cluster.jobs(project.folder)
    return Counter(re.sub("_wildcards.*", "", job.what) for job in jobs if job.state == "COMPLETED")


@pytest.fixture(scope="module")
def disturbed(project, cluster):
    """The project after its disturbed run; what was said when Snakemake was dead and jobs were left."""
    words = project.snakemake("--set-resources", "denoise_apply:runtime=1 if attempt == 1 else 60")
    head = project.start(*words)
    try:
        left = {_hang, _kill, _cancel}
        _wait(lambda: left.difference_update({act for act in left if act(project, cluster)}) or not left)
        shards = Counter(rule_ctf_fit=2, rule_pick_apply=2, rule_denoise_apply=2)
        _wait(lambda: shards <= _completed(cluster, project))
        cluster.let_start(False)
        queued = _wait(lambda: cluster.queued(project.folder, "PENDING"))
        assert head.poll() is None, project.said(head)
        head.send_signal(signal.SIGKILL)
        head.wait()
        refusals = [project.call("emflow", "unlock", code=2), project.call(*words, code=2)]
    finally:
        head.kill()
        cluster.let_start(True)
    _wait(lambda: not cluster.queued(project.folder))
    unlocked = project.call("emflow", "unlock")
    project.call(*words)
    return queued, refusals, unlocked


def test_the_results_are_those_of_an_undisturbed_local_run(disturbed, project, tiny):
    assert project.digests() == tiny.digests()
    assert "Nothing to be done" in project.call(*project.snakemake("--dry-run"))


def test_each_disturbance_happened_and_its_job_was_tried_again(disturbed, project, cluster):
    ended = {
        (re.sub("_wildcards.*", "", job.what), job.state.split()[0]) for job in cluster.jobs(project.folder)
    }
    assert {state for what, state in ended if what == "rule_ctf_fit"} == {"CANCELLED", "COMPLETED"}
    assert {state for what, state in ended if what == "rule_pick_apply"} == {"FAILED", "COMPLETED"}
    assert {state for what, state in ended if what == "rule_denoise_apply"} == {"TIMEOUT", "COMPLETED"}


def test_nothing_is_unlocked_while_jobs_of_a_dead_snakemake_are_queued(disturbed):
    queued, (at_unlock, at_start), unlocked = disturbed
    for what, number in queued.items():
        assert f"{number} ({what.removeprefix('rule_').replace('_wildcards_', ' ')}, pending)" in at_unlock
    assert "emflow unlock tiny" in at_start
    assert unlocked == "Unlocked: tiny.\n"


def test_what_ended_after_snakemake_died_is_kept(disturbed, project, cluster):
    queued, _, _ = disturbed
    jobs = [job.what for job in cluster.jobs(project.folder)]
    assert {what: jobs.count(what) for what in queued} == dict.fromkeys(queued, 1)


def test_gpu_jobs_run_one_at_a_time_on_the_one_gpu(disturbed, project, cluster):
    jobs = sorted((job for job in cluster.jobs(project.folder) if job.gpus), key=lambda job: job.start)
    assert len(jobs) > 3
    pairs = list(itertools.pairwise(jobs))
    assert all(second.start >= first.end for first, second in pairs)
    assert any(second.submitted < first.end for first, second in pairs), "one was ready while another ran"


def test_jobs_go_to_their_partition_and_ask_for_no_more_than_it_allows(disturbed, project, cluster):
    jobs = cluster.jobs(project.folder)
    assert all(job.partition == ("gpu" if job.gpus else "cpu") for job in jobs)
    refinement = next(job for job in jobs if job.what == "rule_reconstruct_refine")
    assert refinement.minutes == 12 * 60
    assert {job.priority for job in jobs} == {1000}, "the site's further arguments of sbatch"
    assert (project.folder / "scratch").is_dir(), "the site's folder for temporary files"


def test_a_preempted_job_is_queued_again_and_uses_up_no_attempt(cluster, new_project):
    project = new_project()
    head = project.start(*project.snakemake("--until", "session_check"))
    _wait(lambda: cluster.queued(project.folder, "RUNNING"))
    urgent = ("--partition=urgent", "--cpus-per-task=4", "--mem=100", "--time=1", "--output=urgent.txt")
    cluster.ask("sbatch", "--account=mylab", f"--chdir={project.folder}", *urgent, "--wrap=true")
    said = project.said(head)
    assert head.returncode == 0, said
    assert "Trying to restart" not in said
    states = [job.state for job in cluster.jobs(project.folder) if job.what.startswith("rule_session_check")]
    assert "PREEMPTED" in states
    assert states.count("COMPLETED") == 2


def test_init_describes_the_cluster_it_finds(cluster, project, tmp_path):
    workspace = type(project)(tmp_path / "work", project.config)
    assert "account mylab" in workspace.call("emflow", "init")
    site = load_site(workspace.folder / "site.yaml")
    assert site.account == "mylab"
    assert list(site.partitions) == ["cpu", "gpu"], "a partition for an hour at most is not used"
    gpu = site.partitions["gpu"]
    assert (gpu.max_hours, gpu.max_memory_gb, gpu.gpus) == (12, 24, 1)

"""Estimates without a run: schedules, rates, records, room on the disk; comparisons of made-up projects."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from emflow.config import load_settings
from emflow.io.mrc import write_mrc
from emflow.project import costs, disk
from emflow.project.branch import Rename, make_branch
from emflow.project.command_runs import diff
from emflow.project.costs import Cost, Costs, total
from emflow.project.diff import compare, in_words
from emflow.project.diff_maps import MapsCompared, compare_maps
from emflow.project.estimate import Estimate, StepCost, in_figures, size, span
from emflow.project.rates import RATES, Load
from emflow.project.schedule import Slots, Task, critical_path, makespan
from emflow.project.workload import Workload, shard_of, workload
from emflow.step import EmflowError

WORK = Workload({f"{n:05d}": 100 for n in range(1, 501)}, 16.0, 200.0, True, 300, 64, 256)


def test_a_schedule_fills_cores_and_waits_for_what_it_needs():
    tasks = [Task("a", 10.0), Task("b", 10.0), Task("c", 10.0, 2), Task("d", 5.0, 1, 0, (0, 1, 2))]
    assert makespan(tasks, Slots(1)) == 35  # a job that asks for more cores than there are gets those
    assert makespan(tasks, Slots(2)) == 25
    assert makespan(tasks, Slots(4)) == 15
    assert makespan(tasks, Slots(None, 2)) == 25
    assert critical_path(tasks) == (15.0, ["a", "d"])
    assert makespan([], Slots(2)) == 0
    assert critical_path([]) == (0.0, [])


def test_jobs_wait_for_gpus_and_others_go_on():
    tasks = [Task("gpu", 10.0, 1, 1) for _ in range(4)] + [Task("cpu", 5.0) for _ in range(4)]
    assert makespan(tasks, Slots(8, None, 1)) == 40
    assert makespan(tasks, Slots(8, None, 4)) == 10


def test_a_long_chain_bounds_every_schedule():
    tasks = [Task(f"s{n}", 1.0, needs=(n - 1,) if n else ()) for n in range(50)]
    assert makespan(tasks, Slots(64)) == critical_path(tasks)[0] == 50


def test_shipped_rates_grow_with_the_count_of_operations():
    def cpu(load: Load, step: str) -> float:
        return RATES[step].unit_s * RATES[step].count(load, {})

    small, large = (Load(100, 16.0, 20_000, 2 * side, side) for side in (128, 256))
    assert cpu(large, "reconstruct.refine") == pytest.approx(4 * cpu(small, "reconstruct.refine"))
    assert cpu(large, "validate.maps") == pytest.approx(8 * cpu(small, "validate.maps"))
    assert cpu(large, "ctf.fit") == cpu(small, "ctf.fit")
    assert cpu(Load(100, 32.0, 0, 0, 0), "pick.apply") == 2 * cpu(Load(100, 16.0, 0, 0, 0), "pick.apply")


def _record(folder: Path, name: str, **content: object) -> None:
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    base = {"cpu_s": 30.0, "wall_s": 20.0, "threads": 1, "device": "auto", "settings": {}}
    path.write_text(json.dumps({**base, **content}))


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results" / "p" / "records", load_settings({"project": "p"})


def test_records_of_a_step_are_sampled_and_read_once(project, monkeypatch):
    records, settings = project
    for number in range(1, 501):
        _record(records / "ctf.fit", f"shard_{number:05d}", micrographs=100)
    read = []
    monkeypatch.setattr(costs, "read_record", lambda path: read.append(path) or json.loads(path.read_text()))
    reckoned = Costs(settings, WORK)
    found = [reckoned.of("ctf.fit", f"shard_{n:05d}", f"{n:05d}", 1, False) for n in range(1, 501)]
    assert len(read) <= 12
    assert {cost.source for cost in found} == {"own"}
    assert total(found, "cpu_s")[0] == pytest.approx(500 * 30.0)
    low, high = total(found, "cpu_s")[1:]
    assert 500 * 20 < low < 500 * 30 < high < 500 * 45


def test_own_records_are_scaled_by_units_and_told_from_shipped_figures(project):
    records, settings = project
    fixed = RATES["ctf.fit"].fixed_s
    _record(records / "ctf.fit", "shard_00001", micrographs=25, cpu_s=fixed + 5.0)
    own = Costs(settings, WORK).of("ctf.fit", "shard_00002", "00002", 1, False)
    assert own.cpu_s == pytest.approx(fixed + 20.0)
    shipped = Costs(settings, WORK).of("pick.apply", "shard_00002", "00002", 4, False)
    unknown = Costs(settings, WORK).of("nobody.knows", "all", None, 1, False)
    assert (own.source, shipped.source, unknown.source) == ("own", "shipped", "guess")
    assert own.factor < shipped.factor < unknown.factor
    assert shipped.wall_s < shipped.cpu_s, "four threads"


def test_a_gpu_that_was_never_timed_is_a_guess_and_one_that_was_is_not(project):
    records, settings = project
    _record(records / "denoise.apply", "shard_00001", micrographs=100, wall_s=50.0, device="auto (NVIDIA A)")
    timed = Costs(settings, WORK, gpus=1).of("denoise.apply", "shard_00002", "00002", 4, True)
    guessed = Costs(settings, WORK, gpus=1).of("reconstruct.refine", "all", None, 16, True)
    without = Costs(settings, WORK, gpus=0).of("reconstruct.refine", "all", None, 16, True)
    assert timed.source == "own"
    assert timed.gpu_s == pytest.approx(50.0, abs=5)
    assert (guessed.source, without.source) == ("guess", "shipped")
    assert guessed.gpu_s > 0
    assert without.gpu_s == 0


def test_a_damaged_record_is_left_out(project):
    records, settings = project
    _record(records / "ctf.fit", "shard_00001", micrographs=100)
    (records / "ctf.fit" / "shard_00002.json").write_text('{"cpu_s": 1')
    assert Costs(settings, WORK).of("ctf.fit", "shard_00003", "00003", 1, False).source == "own"


def test_guessed_particles_widen_what_depends_on_them_and_nothing_else(project):
    _, settings = project
    guessed = Workload(WORK.shards, 16.0, 200.0, False, 300, 64, 256)
    for step, gpus, wider in (("reconstruct.refine", 0, 3), ("reconstruct.refine", 1, 3), ("ctf.fit", 0, 1)):
        pair = [Costs(settings, work, gpus).of(step, "all", None, 1, True).factor for work in (guessed, WORK)]
        assert pair[0] == pytest.approx(wider * pair[1])


def test_full_shards_are_counted_without_reading_all_lists(project, tmp_path):
    _, settings = project
    lists = {}
    for number in range(1, 101):
        path = tmp_path / f"shard_{number:05d}.star"
        rows = "".join(f"m{number}_{n}.mrc 1\n" for n in range(7 if number == 100 else 10))
        head = "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n"
        path.write_text(f"data_optics\n\nloop_\n_rlnOpticsGroup #1\n1\n\n{head}{rows}\n")
        lists[f"{number:05d}"] = str(path)
    work = workload(settings, lists)
    assert work.micrographs == 997
    assert not work.sized, "there are no such micrographs"
    assert not work.counted
    assert shard_of("shard_00012.json") == shard_of("denoised_00012.json") == "00012"
    assert shard_of("all.json") is None


def _estimate(needed: float, free: float, counted: bool = True) -> Estimate:
    work = Workload({"00001": 1}, 1.0, 1.0, counted, 64, 64, 64)
    step = StepCost("extract_recenter", [Cost(1.0, 0.0, 1.0, 2.0, "shipped")], needed)
    return Estimate(work, [step], Slots(2), 1.0, 1.0, ["extract_recenter"], free, 0.0)


@pytest.mark.parametrize(
    ("needed", "free", "counted", "stops", "says"),
    [
        (1e12, 2e12, True, False, ""),
        (2e12, 1e12, True, True, "nothing was started"),
        (2e12, 1e12, False, False, "does not fit"),
        (5e12, 1e12, False, True, "nothing was started"),
    ],
)
def test_a_run_that_cannot_fit_stops_and_one_that_may_not_is_warned_of(
    monkeypatch, capsys, needed, free, counted, stops, says
):
    monkeypatch.setattr(disk, "estimate", lambda workflow: _estimate(needed, free, counted))
    if stops:
        with pytest.raises(SystemExit):
            disk.require_space(None)
    else:
        disk.require_space(None)
    said = capsys.readouterr().err
    assert says in said
    assert bool(said) == bool(says)


def test_an_estimate_that_fails_is_said_and_stops_no_run(monkeypatch, capsys):
    def fail(workflow: object) -> Estimate:
        raise ValueError("a record says nonsense")

    monkeypatch.setattr(disk, "estimate", fail)
    disk.require_space(None)
    assert "a record says nonsense" in capsys.readouterr().err


def test_the_figures_name_their_source_and_their_range():
    said = in_figures(_estimate(2e12, 1e12, counted=False))
    assert "shipped figures, ×÷2.0" in said
    assert "CPU   1.0 s (from 0.5 s to 2.0 s)" in said
    assert "a guess" in said
    assert "2.0 TB needed, 1.0 TB free" in said
    assert [span(s) for s in (5, 90, 4000, 86400 * 3)] == ["5.0 s", "1.5 min", "1.1 h", "3.0 days"]
    assert [size(b) for b in (2e3, 5e6, 12e9, 3e12)] == ["2 kB", "5.0 MB", "12 GB", "3.0 TB"]


def test_a_rename_changes_the_projects_own_paths_only():
    rename = Rename("a.b", "new")
    before = (
        '1@results/a.b/x.mrcs results/a.bc/y results/axb/z other/results/a.b/w "results/a.b/v" results/a.b/'
    )
    after = (
        '1@results/new/x.mrcs results/a.bc/y results/axb/z other/results/a.b/w "results/new/v" results/new/'
    )
    assert rename.text(before) == after


def _made_up(folder: Path, resolution: float, verdict: str, **settings: object) -> Path:
    place = folder / "validate"
    place.mkdir(parents=True)
    (folder / "settings.yaml").write_text(json.dumps({"project": folder.name, **settings}))
    (place / "metrics.json").write_text(
        json.dumps(
            {"resolution_angstrom": resolution, "box_px": 32, "cpu_s": resolution, "mask_noise": resolution}
        )
    )
    row = {"question": "Is it <good>?", "verdict": verdict, "evidence": "", "action": ""}
    (place / "verdicts.json").write_text(json.dumps([row]))
    return folder


def test_a_comparison_tells_settings_figures_with_direction_and_verdicts(tmp_path, capsys):
    a = _made_up(tmp_path / "a", 4.0, "warn")
    b = _made_up(tmp_path / "b", 3.5, "pass", ctf={"fit": {"patch_size": 256}})
    found = compare(a, b)
    assert [(c.where, c.a, c.b) for c in found.settings] == [("ctf.fit.patch_size", 0, 256)]
    assert [(c.where, c.better) for c in found.figures] == [
        ("validate.resolution_angstrom", "b"),
        ("validate.mask_noise", ""),
    ]
    assert compare(b, a).figures[0].better == "a"
    assert "Is it <good>?  warn → pass" in in_words(found)
    diff(str(a), str(b), page=tmp_path / "page.html", maps=False)
    page = (tmp_path / "page.html").read_text()
    assert "Is it &lt;good&gt;?" in page
    assert "<good>" not in page
    with pytest.raises(EmflowError, match="no project"):
        compare(a, tmp_path / "nothing")


def _with_maps(folder: Path, halves: list[np.ndarray], voxel: float = 4.0) -> Path:
    place = folder / "reconstruct" / "refine"
    place.mkdir(parents=True)
    for name, volume in zip(("half1", "half2"), halves, strict=True):
        write_mrc(place / f"{name}.mrc", volume.astype(np.float32), voxel)
    grid = np.indices(halves[0].shape) - halves[0].shape[0] // 2
    write_mrc(place / "mask.mrc", ((grid**2).sum(0) < 13**2).astype(np.float32), voxel)
    return folder


def _turned(volume: np.ndarray) -> np.ndarray:
    """A quarter turn about the centre n//2."""
    return np.roll(np.rot90(volume, axes=(1, 2)), 1, axis=2) if volume.shape[0] % 2 == 0 else volume


def test_maps_are_compared_in_one_frame_and_a_turn_is_said(tmp_path):
    draw = np.random.default_rng(3)
    grid = np.indices((32, 32, 32)) - 16.0
    body = sum(
        np.exp(-((grid - np.array(at)[:, None, None, None]) ** 2).sum(0) / 5.0)
        for at in draw.uniform(-7, 7, (14, 3))
    )
    halves = [body + draw.normal(0, 0.03, body.shape) for _ in range(2)]
    other = [body + draw.normal(0, 0.03, body.shape) for _ in range(2)]
    a, same = _with_maps(tmp_path / "a", halves), _with_maps(tmp_path / "same", other)
    found = compare_maps(a, same, "C1")
    assert isinstance(found, MapsCompared)
    assert found.said[0] == "The maps stand in one frame."
    turned = compare_maps(a, _with_maps(tmp_path / "turned", [_turned(half) for half in other]), "C1")
    assert isinstance(turned, MapsCompared)
    assert "B was turned by 9" in turned.said[0] or "B was turned by 89" in turned.said[0]
    agreed = [float(re.findall(r"[\d.]+", m.said[1])[-1].rstrip(".")) for m in (found, turned)]
    assert agreed[0] > 0.97
    assert agreed[1] > 0.95
    boxes = compare_maps(a, _with_maps(tmp_path / "other", [h[2:-2, 2:-2, 2:-2] for h in halves]), "C1")
    assert isinstance(boxes, str)
    assert "other boxes" in boxes
    linked = tmp_path / "linked" / "reconstruct" / "refine"
    linked.mkdir(parents=True)
    os.link(a / "reconstruct" / "refine" / "half1.mrc", linked / "half1.mrc")
    assert compare_maps(a, tmp_path / "linked", "C1") == "The refined maps are the same files."


def test_a_branch_is_refused_where_a_folder_is_a_link(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parent = tmp_path / "results" / "a"
    parent.mkdir(parents=True)
    (parent / "settings.yaml").write_text("project: a\n")
    (tmp_path / "elsewhere").mkdir()
    (parent / "extract").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EmflowError, match="a link to another folder"):
        make_branch("a", "b")
    assert not (tmp_path / "b.yaml").exists()
    assert not (tmp_path / "results" / "b").exists()
    (parent / "extract").unlink()
    (parent / "stack.mrcs").write_bytes(b"images")
    (parent / ".stack.journal").write_text("{}\n")
    made = make_branch("a", "b", ["ctf={fit: {patch_size: 256}}", "execution.threads=2"])
    assert (made.linked, made.written) == (1, 1)
    settings = load_settings("b.yaml")
    assert settings.project == "b"
    assert settings.execution.threads == 2
    assert settings.params("ctf.fit") != load_settings({}).params("ctf.fit")
    with pytest.raises(EmflowError, match="expected KEY=VALUE"):
        make_branch("a", "c", ["threads"])

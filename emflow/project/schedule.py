"""How long jobs take with so many cores or so many jobs at once: a simulation of Snakemake's greedy scheduler."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Task:
    """One job of the plan. Tasks stand in an order in which each comes after those it needs."""

    name: str
    wall_s: float
    threads: int = 1
    gpu: int = 0
    needs: tuple[int, ...] = ()
    """Places of the tasks that must be done before."""


@dataclass(frozen=True)
class Slots:
    """What there is: cores and GPUs of this machine, or jobs at once on a cluster (None: no such limit)."""

    cores: int | None
    jobs: int | None = None
    gpus: int | None = None


@dataclass
class _Free:
    cores: float
    jobs: float
    gpus: float
    most: Slots = field(default_factory=lambda: Slots(None))

    def threads(self, task: Task) -> int:
        return min(task.threads, self.most.cores or task.threads)

    def fits(self, task: Task) -> bool:
        return self.cores >= self.threads(task) and self.jobs >= 1 and self.gpus >= min(task.gpu, 1)

    def take(self, task: Task, sign: int) -> None:
        self.cores -= sign * self.threads(task)
        self.jobs -= sign
        self.gpus -= sign * min(task.gpu, 1)


def makespan(tasks: Sequence[Task], slots: Slots) -> float:
    """Seconds until all tasks are done, each begun as soon as there is room for it."""
    infinite = float("inf")
    free = _Free(slots.cores or infinite, slots.jobs or infinite, slots.gpus or infinite, slots)
    waiting = [len(task.needs) for task in tasks]
    followers: list[list[int]] = [[] for _ in tasks]
    for place, task in enumerate(tasks):
        for need in task.needs:
            followers[need].append(place)
    # those that were let in last are begun first, as the rules' priorities ask: a shard is finished, then the next
    ready = [-place for place, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        later = []
        while ready and free.cores >= 1 and free.jobs >= 1:
            place = -heapq.heappop(ready)
            if free.fits(tasks[place]):
                free.take(tasks[place], 1)
                heapq.heappush(running, (now + tasks[place].wall_s, place))
            else:
                later.append(-place)
        for place in later:
            heapq.heappush(ready, place)
        now, done = heapq.heappop(running)
        free.take(tasks[done], -1)
        for follower in followers[done]:
            waiting[follower] -= 1
            if not waiting[follower]:
                heapq.heappush(ready, -follower)
    return now


def critical_path(tasks: Sequence[Task]) -> tuple[float, list[str]]:
    """Seconds of the longest chain of tasks, and its names in order: what no number of cores makes shorter."""
    ends: list[float] = []
    before: list[int | None] = []
    for task in tasks:
        last = max(task.needs, key=lambda need: ends[need], default=None)
        ends.append(task.wall_s + (ends[last] if last is not None else 0.0))
        before.append(last)
    if not tasks:
        return 0.0, []
    place: int | None = max(range(len(tasks)), key=lambda number: ends[number])
    longest, names = ends[place or 0], []
    while place is not None:
        names.append(tasks[place].name)
        place = before[place]
    return longest, names[::-1]

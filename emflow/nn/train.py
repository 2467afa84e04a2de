"""The one training loop: seeded, with checkpoints, resumed to the same bits."""

from __future__ import annotations

import copy
import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from emflow import leave
from emflow.em.batches import in_batches
from emflow.nn.ranks import Ranks
from emflow.step import EmflowError

log = logging.getLogger("emflow")

State = dict[str, Tensor]


class Checkpoint(Protocol):
    """Where a training's state is kept between two lives of the process."""

    def load(self) -> State | None:
        """Return the stored state, if there is one of this very training."""
        ...

    def save(self, state: State) -> None:
        """Store a state in place of the last."""
        ...


@dataclass(frozen=True)
class Plan:
    """How to train."""

    steps: int
    batch: int
    """Items of a step, over all processes."""
    learning_rate: float = 2e-3
    """Highest rate; it rises over the first twentieth of the steps and falls to 0 along a cosine."""
    averaging: float = 0.99
    """The weights returned are an exponential average over the last 1/(1 − averaging) steps."""
    checkpoint_seconds: float = 60.0


@dataclass
class Outcome:
    """A training's end."""

    network: nn.Module
    """The averaged network, in evaluation mode."""
    losses: list[float] = field(default_factory=list)
    """Loss of each step, of earlier lives of the process too."""


def train(
    network: nn.Module,
    loss_of: Callable[[nn.Module, int, slice], Tensor],
    plan: Plan,
    checkpoint: Checkpoint | None = None,
    ranks: Ranks = Ranks(),
) -> Outcome:
    """Minimise a loss with Adam.

    Parameters
    ----------
    network
        Changed in place; give it its first weights.
    loss_of
        What some items of a step's batch contribute to its loss, the mean over the whole batch. It must draw the batch
        from the step's number alone (:func:`emflow.device.generator`), so that a resumed training, and one
        that is divided, sees what an uninterrupted one does.
    plan
        Length and rate.
    checkpoint
        Where to store the state about once a minute, and to resume from.
    ranks
        The processes that each batch is divided among. Their number changes the result by rounding only.

    Raises
    ------
    EmflowError
        If the loss is no longer finite.
    LeaveError
        If the process was told to stop; the state of the last step is stored.
    """
    averaged = copy.deepcopy(network).eval()
    optimizer = torch.optim.Adam(network.parameters(), lr=plan.learning_rate, betas=(0.9, 0.99))
    losses: list[float] = []
    stored = checkpoint.load() if checkpoint else None
    if stored is not None:
        _restore(stored, network, averaged, optimizer, losses)
        log.info("training goes on after step %d of %d", len(losses), plan.steps)
    ranks.agree(str(len(losses)), "checkpoint")
    network.train()
    progress = Progress("training", plan.steps, len(losses))
    saved = time.monotonic()
    with leave.held_off():
        for step in range(len(losses), plan.steps):
            optimizer.param_groups[0]["lr"] = plan.learning_rate * rate_at(step, plan.steps)
            losses.append(_differentiate(network, loss_of, step, plan.batch, ranks))
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            if not math.isfinite(losses[-1]):
                raise EmflowError(
                    f"Training went astray: the loss is {losses[-1]} at step {step + 1}. Lower the learning rate."
                )
            _average(averaged, network, min(plan.averaging, step / (step + 10)))
            due = leave.asked() or time.monotonic() - saved > plan.checkpoint_seconds
            if checkpoint and ranks.first and due:
                checkpoint.save(_state(network, averaged, optimizer, losses))
                saved = time.monotonic()
            if leave.asked():
                break
            progress.tell(step + 1, f"loss {sum(losses[-50:]) / len(losses[-50:]):.4g}")
    if checkpoint and ranks.first:
        checkpoint.save(_state(network, averaged, optimizer, losses))
    return Outcome(averaged, losses)


def _differentiate(
    network: nn.Module,
    loss_of: Callable[[nn.Module, int, slice], Tensor],
    step: int,
    batch: int,
    ranks: Ranks,
) -> float:
    """Set the gradients of a step, summed over the parts that fit in memory and over the processes; its loss."""
    parameters = list(network.parameters())
    mine = ranks.share(batch)

    def contribution(part: slice) -> list[Tensor]:
        loss = loss_of(network, step, slice(mine.start + part.start, mine.start + part.stop))
        # a step may leave some parameters out
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return [loss.detach(), *gradients]

    size = mine.stop - mine.start
    parts = in_batches(contribution, size, size, "crops of a training step")
    loss, *gradients = ranks.add(
        [torch.stack(terms).sum(0) if len(terms) > 1 else terms[0] for terms in zip(*parts, strict=True)]
    )
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return float(loss)


def rate_at(step: int, steps: int) -> float:
    """Return the learning rate of a step as a fraction of the highest."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm))


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, keep: float) -> None:
    for mean, now in zip(averaged.parameters(), network.parameters(), strict=True):
        mean.lerp_(now, 1 - keep)


def _state(
    network: nn.Module, averaged: nn.Module, optimizer: torch.optim.Adam, losses: list[float]
) -> State:
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    state |= {f"averaged.{name}": value for name, value in averaged.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    state["losses"] = torch.tensor(losses, dtype=torch.float64)
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def _restore(
    state: State, network: nn.Module, averaged: nn.Module, optimizer: torch.optim.Adam, losses: list[float]
) -> None:
    def part(name: str) -> State:
        return {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}

    network.load_state_dict(part("network."))
    averaged.load_state_dict(part("averaged."))
    moments: dict[int, State] = {}
    for key, value in part("optimizer.").items():
        number, name = key.split(".", 1)
        moments.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    losses.extend(state["losses"].tolist())


class Progress:
    """A bar on a terminal; in a log one line a minute, with the time left."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self._what, self._total, self._first = what, total, done
        self._started = self._told = time.monotonic()

    def tell(self, done: int, note: str) -> None:
        """Say how far it is, if it is time to."""
        now, terminal = time.monotonic(), sys.stderr.isatty()
        if now - self._told < (0.2 if terminal else 60) and done < self._total:
            return
        self._told = now
        left = (now - self._started) / max(done - self._first, 1) * (self._total - done) / 60
        if terminal:
            bar = "#" * (30 * done // self._total)
            end = "\n" if done == self._total else ""
            line = f"\r{self._what} [{bar:<30}] {done}/{self._total}, {left:.1f} min left, {note} "
            print(line, end=end, file=sys.stderr, flush=True)
        else:
            log.info(
                "%s: step %d of %d, about %.0f minutes left, %s", self._what, done, self._total, left, note
            )

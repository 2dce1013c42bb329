"""PufferLib's PuffeRL on observations from memory (uint8 [200, 3]), 600 to 128 units.

Jobs that end in "fused" run hotloop with `install(losses="fused")`, and on both sides the losses are part of
what is timed: from the logits to the gradient by them.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotloop.integrations.patches import installed
from hotloop.ops._memory import empty_buffer
from loops.contest_puffer import Puffer
from loops.jobs import JOBS, Job

from .subject import Clock, Subject

ADVANTAGES, LOSSES = "advantages", "losses"
STORAGE, MINIBATCHES = "storage (eval_copy)", "minibatches (train_copy)"


def make(job: str, *, hotloop: bool, quick: bool, seed: int) -> Subject:
    fused = job.endswith("fused")
    if hotloop:
        _install(fused)
    return PufferSubject(_shape(job, quick), seed, PhaseClock(fused))


def make_floor(job: str, *, quick: bool, seed: int) -> Subject:
    """PuffeRL with hotloop, of which nothing is timed. But each time before it moves bytes, as many are
    copied from one block to another, and that is."""
    _install(job.endswith("fused"))
    return PufferFloor(_shape(job, quick), seed, FloorClock())


def _install(fused: bool) -> None:
    importlib.import_module("hotloop.integrations.pufferlib").install(losses="fused" if fused else "exact")


def _shape(job: str, quick: bool) -> Job:
    agents = int(job.split()[0])
    # PufferLib's own sizes: horizon 64, minibatches of 8192 steps where there are as many
    minibatches = max(4, agents * 64 // 8192)
    shape = dataclasses.replace(JOBS["E3"], agents=agents, horizon=64, minibatches=minibatches)
    return dataclasses.replace(shape.quick(), minibatches=4) if quick else shape


class PhaseClock(Clock):
    """A clock that PuffeRL calls as its `profile`: a name begins a phase and ends the one before. Calls that
    are wrapped are no part of the phase that they are made in.

    Args:
        losses: whether they are timed: the phase between the network's pass and the backward pass, what is
            wrapped in the former, and the latter until it has come to what the network gave.
    """

    def __init__(self, losses: bool = False) -> None:
        super().__init__()
        self.losses = losses
        self._phase, self._part, self._since = "", "", 0.0

    def __call__(self, name: str, epoch: int, nest: bool = False) -> None:
        self._add(perf_counter())
        self._part = self._part_of(name, nest)
        self._phase, self._since = name, perf_counter()

    def _part_of(self, name: str, nest: bool) -> str:
        if name == "train_misc":
            if nest:
                return ADVANTAGES
            after = self._phase == "train_forward" or self._part == LOSSES
            return LOSSES if self.losses and after else ""
        backward = LOSSES if self.losses else ""
        return {"eval_copy": STORAGE, "train_copy": MINIBATCHES, "learn": backward}.get(name, "")

    def _add(self, now: float) -> None:
        if self._part and self._phase != "learn":
            self._seconds[self._part] = self._seconds.get(self._part, 0.0) + now - self._since

    def reached(self) -> None:
        """The backward pass has come to what the network gave."""
        if self._part == LOSSES and self._phase == "learn":
            self._phase = "backward"
            self._add(perf_counter())
            self._part = ""

    def _run(self, part: str, work: Any) -> Any:
        start = perf_counter()
        result = super()._run(part, work)
        self._since += perf_counter() - start
        return result

    def end(self) -> None:
        self("", 0)

    def clear(self) -> None:
        """PuffeRL's dashboard asks for it."""

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(())


class InPlace:
    """Environments that write every step into the same arrays, as PufferLib's own do: its vectors, `Serial`
    and `Multiprocessing`, allocate these once and hand them, or views of them, out at each step. The copies
    that it takes to make others so are made where environments step, which is timed on neither side."""

    def __init__(self, vecenv: Any) -> None:
        self._vecenv = vecenv
        told = vecenv.recv()
        self._arrays = [np.array(each) for each in told[:4]]
        self._more = told[4:]

    def recv(self) -> tuple[Any, ...]:
        return (*self._arrays, *self._more)

    def send(self, actions: Any) -> None:
        self._vecenv.send(actions)
        told = self._vecenv.recv()
        for array, each in zip(self._arrays, told, strict=False):
            np.copyto(array, each)
        self._more = told[4:]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vecenv, name)


class PufferSubject(Subject):
    def __init__(self, job: Job, seed: int, clock: PhaseClock) -> None:
        self.steps = job.batch_size
        self.clock = clock
        self._contestant = Puffer(job, 1, seed)
        self.trainer = trainer = self._contestant.trainer
        trainer.vecenv = InPlace(trainer.vecenv)
        trainer.config.update(prio_alpha=0.8, prio_beta0=0.2)  # PufferLib's own defaults
        trainer.profile = clock
        self.note = self._contestant.note
        pufferl: Any = importlib.import_module("pufferlib.pufferl")
        if installed("pufferlib") is None:
            # hotloop computes advantages in the phase that is theirs, and by a call of another function there
            # only where somebody has exchanged it, as wrapping it would
            clock.wrap(pufferl, "compute_puff_advantage", ADVANTAGES)
        if clock.losses:
            pytorch: Any = importlib.import_module("pufferlib.pytorch")
            sample, timed = pytorch.sample_logits, clock.timed(pytorch.sample_logits, LOSSES)
            pytorch.sample_logits = lambda logits, action=None: (
                sample(logits) if action is None else timed(logits, action)
            )
            forward = trainer.policy.forward
            trainer.policy.forward = lambda *given: _Seen.apply(clock, *forward(*given))  # type: ignore[no-untyped-call]

    def iteration(self) -> None:
        self._contestant.epoch()

    def close(self) -> None:
        self._contestant.close()


class _Seen(torch.autograd.Function):
    """Tells the clock when the gradients by what the network gave are there."""

    @staticmethod
    def forward(ctx: Any, clock: PhaseClock, logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        ctx.clock = clock
        return logits.view_as(logits), values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        ctx.clock.reached()
        return (None, *gradients)


class FloorClock(PhaseClock):
    """Times nothing but what it is asked to copy."""

    def _part_of(self, name: str, nest: bool) -> str:
        return ""

    def wrap(self, owner: Any, name: str, part: str) -> None:
        return

    def copy(self, part: str, to: Tensor, source: Tensor) -> None:
        self._run(part, lambda: to.copy_(source))


class PufferFloor(PufferSubject):
    """The bytes that each part must read and write once: of a step and of a minibatch all there are; for
    advantages four numbers a step read and one written, once an iteration; for losses the logits, as much of
    gradients, five numbers a step read and three written."""

    clock: FloorClock

    def __init__(self, job: Job, seed: int, clock: FloorClock) -> None:
        self._first = True  # of an iteration's minibatches
        super().__init__(job, seed, clock)
        super().iteration()  # makes what is wrapped below
        rollout, training = importlib.import_module("hotloop.integrations.pufferlib")._WORK[self.trainer]
        self._observations = _bytes(self.trainer.observations.numel())
        self._at = 0
        rollout._plan = _Before(rollout._plan, "try_step", self._step)
        training._plan = _Before(training._plan, "gather", self._minibatch)
        training.advantages_of = self._advantages(training.advantages_of)
        self._small = _bytes(job.agents * 5 * 4), _bytes(job.agents * 5 * 4)
        self._rows = _bytes(5 * 4 * job.batch_size // 2), _bytes(5 * 4 * job.batch_size // 2)
        if training.fused is not None:
            size = job.minibatch_size * 4 * (job.actions + 4)
            self._losses = _bytes(size), _bytes(size)
            training.fused = _Before(training.fused, "evaluate", self._loss)

    def _step(self, step: tuple[Tensor, ...], *_: Any) -> None:
        """Observations, and five numbers an agent."""
        taken = step[0].reshape(-1).view(torch.uint8)
        place = self._observations[self._at : self._at + taken.numel()]
        self._at = (self._at + taken.numel()) % self._observations.numel()
        self.clock.copy(STORAGE, place, taken)
        self.clock.copy(STORAGE, *self._small)

    def _minibatch(self, leaves: Any, rows: Tensor) -> None:
        """As many rows, those that lie behind the first one drawn."""
        first = min(int(rows[0]), len(leaves["observations"]) - len(rows))
        for name in ("observations", "actions", "logprobs", "values", "advantages"):
            to = self._found[name]
            self.clock.copy(MINIBATCHES, to, leaves[name][first : first + len(rows)])

    def _advantages(self, compute: Any) -> Any:
        def call(trainer: Any) -> Any:
            if self._first:
                self.clock.copy(ADVANTAGES, *self._rows)
            self._first = False
            return compute(trainer)

        return call

    def _loss(self, *_: Any) -> None:
        self.clock.copy(LOSSES, *self._losses)

    @property
    def _found(self) -> dict[str, Tensor]:
        _, training = importlib.import_module("hotloop.integrations.pufferlib")._WORK[self.trainer]
        found: dict[str, Tensor] = training._plan.out
        return found

    def iteration(self) -> None:
        self._first = True
        super().iteration()


class _Before:
    """Another object, one of whose methods comes after something else."""

    def __init__(self, inner: Any, name: str, before: Any) -> None:
        self._inner, method = inner, getattr(inner, name)

        def call(*arguments: Any) -> Any:
            before(*arguments)
            return method(*arguments)

        setattr(self, name, call)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _bytes(count: int) -> Tensor:
    return empty_buffer((count,), torch.uint8).zero_()

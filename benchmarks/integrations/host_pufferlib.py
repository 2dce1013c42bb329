"""PufferLib's PuffeRL on observations from memory (uint8 [200, 3]), 600 to 128 units."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from time import perf_counter
from typing import Any

from loops.contest_puffer import Puffer
from loops.jobs import JOBS, Job

from .subject import Clock, Subject

# Phases of PuffeRL's own profile: what is in them, and nothing beside it, is storage and minibatches.
_PHASES = {"eval_copy": "storage (eval_copy)", "train_copy": "minibatches (train_copy)"}


def make(job: str, *, hotloop: bool, quick: bool, seed: int) -> Subject:
    if hotloop:
        importlib.import_module("hotloop.integrations.pufferlib").install()
    agents = int(job.split()[0])
    # PufferLib's own sizes: horizon 64, minibatches of 8192 steps where there are as many
    minibatches = max(4, agents * 64 // 8192)
    shape = dataclasses.replace(JOBS["E3"], agents=agents, horizon=64, minibatches=minibatches)
    if quick:
        shape = dataclasses.replace(shape.quick(), minibatches=4)
    return PufferSubject(shape, seed)


class PufferSubject(Subject):
    def __init__(self, job: Job, seed: int) -> None:
        self.steps = job.batch_size
        self.clock = self._phases = PhaseClock()
        self._contestant = Puffer(job, 1, seed)
        trainer = self._contestant.trainer
        trainer.config.update(prio_alpha=0.8, prio_beta0=0.2)  # PufferLib's own defaults
        trainer.profile = self._phases
        self.clock.wrap(importlib.import_module("pufferlib.pufferl"), "compute_puff_advantage", "advantages")
        self.note = self._contestant.note

    def iteration(self) -> None:
        self._contestant.epoch()

    def close(self) -> None:
        self._contestant.close()


class PhaseClock(Clock):
    """A clock that PuffeRL calls as its `profile`: a name begins a phase and ends the one before."""

    def __init__(self) -> None:
        super().__init__()
        self._phase, self._since = "", 0.0
        self._phases: dict[str, float] = {}

    def __call__(self, name: str, epoch: int, nest: bool = False) -> None:
        now = perf_counter()
        if self._phase in _PHASES:
            part = _PHASES[self._phase]
            self._phases[part] = self._phases.get(part, 0.0) + now - self._since
        self._phase, self._since = name, perf_counter()

    def end(self) -> None:
        self("", 0)

    def clear(self) -> None:
        """PuffeRL's dashboard asks for it."""

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(())

    def take(self) -> dict[str, float]:
        taken, self._phases = super().take() | self._phases, {}
        return taken

"""A script in CleanRL's manner, the contestant of `benchmarks/loops`, whose loop over time becomes one
call."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from hotloop.integrations import cleanrl
from loops import contest_cleanrl
from loops.jobs import HYPER, JOBS, Job

from .subject import Clock, Subject


def make(job: str, *, hotloop: bool, quick: bool, seed: int) -> Subject:
    agents = int(job.split()[0])
    gymnasium = agents < 1024
    shape = dataclasses.replace(JOBS["E1" if gymnasium else "E3"], agents=agents)
    return ScriptSubject(shape.quick() if quick else shape, hotloop, seed)


class ScriptSubject(Subject):
    """CartPoles of Gymnasium below 1,024 agents, observations from memory (uint8 [200, 3]) from there on."""

    def __init__(self, job: Job, hotloop: bool, seed: int) -> None:
        self.steps = job.batch_size
        self.clock = Clock()
        self._script = contest_cleanrl.make(job, 1, seed)
        if hotloop:
            self._script.gae = _gae  # type: ignore[method-assign]
        self.clock.wrap(self._script, "gae", "advantages and returns")
        self.note = self._script.note

    def iteration(self) -> None:
        self._script.epoch()

    def close(self) -> None:
        self._script.close()


def _gae(next_value: Tensor, next_done: Tensor, rewards: Tensor, values: Tensor, dones: Tensor) -> Tensor:
    """As the script's own function, which leaves the returns to its caller."""
    return cleanrl.gae(rewards, values, dones, next_value, next_done, HYPER.gamma, HYPER.gae_lambda)[0]

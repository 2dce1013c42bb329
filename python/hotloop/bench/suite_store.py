"""The suite `store`: one rollout step of every agent into its column of the buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

import hotloop
from hotloop import ops
from hotloop.bench.case import FLOOR, Case, Contestant, DisagreementError
from hotloop.bench.rollout_keys import KEYS, STEP_BYTES, step_leaves
from hotloop.bench.suite import Options

SHAPES = ((1024, 64),)  # agents, horizon


def cases(options: Options) -> Iterator[Case]:
    for shape in options.shapes or SHAPES:
        if options.wants("store"):
            yield Store(shape).case()


def moved(agents: int) -> int:
    """Every byte of the step is read and written once."""
    return 2 * STEP_BYTES * agents


class Walk:
    """Copies of a step's bytes into memory that exists, to the next place at every call: the floor."""

    def __init__(self, agents: int, horizon: int) -> None:
        self.source = torch.ones(STEP_BYTES * agents, dtype=torch.uint8)
        self.places = list(torch.zeros(horizon, STEP_BYTES * agents, dtype=torch.uint8))
        self.step = 0

    def __call__(self) -> None:
        self.places[self.step].copy_(self.source)
        self.step = (self.step + 1) % len(self.places)


class Store:
    """Contestants that share a buffer; each has its own place in it."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = agents, horizon = shape
        self.agents = slice(0, agents)
        self.experience = hotloop.Experience(
            total_agents=agents,
            batch_size=agents * horizon,
            bptt_horizon=horizon,
            minibatch_size=agents * horizon,
            experience_spec=KEYS,
        )
        self.buffer: TensorDict = self.experience.buffer
        self.rows = torch.arange(agents)
        self.source = TensorDict(dict(step_leaves(agents)), batch_size=[agents])
        self.cursors = ops.RowCursors(agents, agents, horizon)
        self.plan = ops.StorePlan(self.buffer, KEYS, self.cursors)
        self.leaves = [self.buffer[key] for key in KEYS]
        self.sources = [self.source[key] for key in KEYS]
        self.row_step = self.slice_step = 0

    def case(self) -> Case:
        calls: Mapping[str, tuple[str, Callable[[], Any]]] = {
            FLOOR: ("floor", Walk(*self.shape)),
            "hotloop.ops.StorePlan": ("ours", self.by_plan),
            "hotloop.Experience.store": ("ours", self.by_experience),
            "TensorDict.update_at_, a tensor of rows": ("loop", self.by_rows),
            "TensorDict.update_at_, a slice of rows": ("loop", self.by_slice),
        }
        contestants = [Contestant(name, kind, [call]) for name, (kind, call) in calls.items()]
        return Case(
            "store", "store", self.shape, moved(self.shape[0]), contestants, layout="(agents x horizon)",
            check=self.check, sets=self.shape[1],
        )  # fmt: skip

    def by_plan(self) -> None:
        self.plan.store(self.source, 0, self.shape[0])

    def by_experience(self) -> None:
        if self.experience.ready_for_training:
            self.experience.reset_for_rollout()
        self.experience.store(self.source, self.agents)

    def by_rows(self) -> None:
        self.buffer.update_at_(self.source, (self.rows, self.row_step))
        self.row_step = (self.row_step + 1) % self.shape[1]

    def by_slice(self) -> None:
        self.buffer.update_at_(self.source, (self.agents, self.slice_step))
        self.slice_step = (self.slice_step + 1) % self.shape[1]

    def check(self) -> None:
        """Everybody fills an empty buffer, a rollout's steps with other data each."""
        steps = [step_leaves(self.shape[0], seed) for seed in range(min(3, self.shape[1]))]
        for store in (self.by_plan, self.by_experience, self.by_rows, self.by_slice):
            self.buffer.zero_()
            self.cursors.reset()
            self.experience.reset_for_rollout()
            self.row_step = self.slice_step = 0
            for step in steps:
                for key, leaf in step.items():
                    self.source[key].copy_(leaf)
                store()
            for t, step in enumerate(steps):
                _expect_column(self.buffer, t, step, store.__name__)
            if any(self.buffer[key][:, len(steps) :].any() for key in KEYS):
                raise DisagreementError(f"store: {store.__name__} wrote beyond its column")


def _expect_column(buffer: TensorDict, t: int, step: Mapping[str, Tensor], name: str) -> None:
    for key, leaf in step.items():
        if not torch.equal(buffer[key][:, t], leaf):
            raise DisagreementError(f"store: {name} did not write {key} of step {t}")

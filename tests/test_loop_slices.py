"""Environments in several slices: overlap, order, rows of their own, absent agents, step memory."""

from __future__ import annotations

import random
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop.context import ComponentContext, LoopConfig
from hotloop.experience import Experience
from hotloop.loop import CoreTrainingLoop
from hotloop.losses import ppo_losses
from hotloop.policies import MLPPolicy
from loop_support import BOOTSTRAPPED, OBS, STORED, Setup, TinyPolicy
from slices_support import EpisodicEnv, PeekingEnv, SlicedEnv

HALVES = [slice(0, 2), slice(2, 4)]
UNEVEN = [slice(0, 1), slice(1, 4), slice(4, 6)]
STAMPED = {**BOOTSTRAPPED, "teacher_actions": ((), torch.int64)}


class Noting(TinyPolicy):
    """Writes its calls into the environment's log."""

    env: SlicedEnv

    def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
        if action is None:
            self.env.log.append(("act", self.env.number, self.env.clocks[self.env.number]))
        return super().forward(td, action)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 0, 1, 0]])
def test_the_actions_of_a_slice_are_sent_before_the_next_is_fetched(order: list[int]) -> None:
    setup = Setup(agents=6, segments=12, policy=Noting(), boundary="legacy")
    setup.policy.env = env = SlicedEnv(UNEVEN, order)
    setup.loop.rollout_phase(env, setup.context)
    names = [name for name, *_ in env.log]
    assert names == ["get", "act", "send"] * (len(names) // 3)
    for step in range(len(names) // 3):
        number = order[step % len(order)]
        assert {entry[1] for entry in env.log[3 * step : 3 * step + 3]} == {number}
        assert len(env.sent[step]) == UNEVEN[number].stop - UNEVEN[number].start


class ThreadedEnv(SlicedEnv):
    """Steps a slice in a thread of its own, which is done only once the policy acts on the other slice."""

    patience = 10.0  # seconds; only a loop that does not overlap runs into it

    def __init__(self) -> None:
        super().__init__(HALVES)
        self.acting = Event()
        self.pool = ThreadPoolExecutor(2)
        self.steps: list[Future[bool] | None] = [None, None]
        self.overlaps: list[bool] = []

    def get_observations(self) -> tuple[Any, ...]:
        step = self.steps[self.number]
        if step is not None:
            self.overlaps.append(step.result(self.patience))
        return super().get_observations()

    def send_actions(self, actions: np.ndarray[Any, Any]) -> None:
        number = self.number
        super().send_actions(actions)
        self.acting.clear()
        self.steps[number] = self.pool.submit(self.acting.wait, self.patience)


class Waiting(TinyPolicy):
    """Acts on a slice for as long as the other one is stepping."""

    env: ThreadedEnv

    def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
        if action is None:
            self.env.acting.set()
            other = self.env.steps[1 - self.env.number]
            if other is not None:
                assert other.result(self.env.patience), "the other slice was not stepping"
        return super().forward(td, action)


def test_one_slice_steps_while_the_policy_acts_on_the_other() -> None:
    setup = Setup(agents=4, segments=8, policy=Waiting(), boundary="legacy")
    setup.policy.env = env = ThreadedEnv()
    setup.loop.rollout_phase(env, setup.context)
    env.acting.set()
    env.pool.shutdown()
    assert len(env.sent) == 12
    assert len(env.overlaps) == 10  # all but each slice's first
    assert all(env.overlaps)


def unfair_orders() -> list[list[int]]:
    generator = random.Random(5)
    drawn = [[generator.choice([0, 0, 0, 1, 2, 2]) for _ in range(60)] + [0, 1, 2] for _ in range(6)]
    return [[2, 2, 2, 2, 2, 0, 1], [0] * 13 + [2] * 7 + [1] * 2, *drawn]


@pytest.mark.parametrize("order", unfair_orders())
@pytest.mark.parametrize("segments", [6, 12, 18])
def test_slices_in_any_order_write_rows_of_their_own(segments: int, order: list[int]) -> None:
    """Every row holds consecutive steps of one agent, none is written twice, and none is lost."""
    horizon = 3
    windows = [slice(0, 2), slice(2, 4), slice(4, 6)]
    setup = Setup(agents=6, segments=segments, horizon=horizon, spec=STAMPED)
    env = EpisodicEnv(windows, "next_step", order)
    most = 1
    for _ in range(2):
        clocks = list(env.clocks)
        sent = len(env.sent)
        setup.loop.rollout_phase(env, setup.context)
        firsts: dict[int, list[int]] = {}
        for row in setup.experience.buffer["teacher_actions"].tolist():
            assert row == list(range(row[0], row[0] + horizon))
            firsts.setdefault(row[0] // 1000, []).append(row[0] % 1000)
        assert sorted(firsts) == list(range(6))
        most = max(most, *map(len, firsts.values()))
        for number, window in enumerate(windows):
            for agent in range(window.start, window.stop):
                begun = sorted(firsts[agent])
                assert begun == [clocks[number] + horizon * i for i in range(len(begun))]
        served = len(env.sent) - sent
        assert setup.experience.stored_steps + setup.experience.skipped_steps == served
    assert most > segments // 6 or segments == 6  # some agent filled more rows than its share


@pytest.mark.parametrize("order", [[0, 0, 1, 1, 1, 1, 0, 0], [0, 1, 0, 1, 1, 1, 0, 0]])
def test_slices_of_different_sizes_leave_no_row_unfinished(order: list[int]) -> None:
    """Some rows are written twice here; the rollout ends when all are whole, and of this rollout."""
    setup = Setup(agents=4, segments=6, horizon=2, spec=STAMPED, minibatches=1)
    windows = [slice(0, 1), slice(1, 4)]
    env = EpisodicEnv(windows, "next_step", order)
    for _ in range(3):
        clocks = list(env.clocks)
        setup.loop.rollout_phase(env, setup.context)
        for first, second in setup.experience.buffer["teacher_actions"].tolist():
            assert second == first + 1
            assert first % 1000 >= clocks[0 if first < 1000 else 1]


def test_a_slice_that_is_done_is_skipped_and_counted() -> None:
    setup = Setup(agents=4, segments=4, horizon=3, spec=STAMPED, policy=TinyPolicy())
    env = EpisodicEnv(HALVES, "next_step", [0, 0, 0, 0, 0, 1])
    setup.loop.rollout_phase(env, setup.context)
    assert setup.experience.stored_steps == 6
    assert setup.experience.skipped_steps == 12  # what slice 0 was served after its three steps
    assert env.clocks == [15, 3]
    stamps = setup.experience.buffer["teacher_actions"][:, 0]
    assert stamps.tolist() == [0, 1000, 2000, 3000]


def test_the_step_memory_of_a_slice_is_its_own() -> None:
    """What the policy was shown of one slice outlives the steps of the others, until its own next step."""
    setup = Setup(
        agents=4, segments=4, horizon=3, boundary="legacy", spec={**STORED, "valid": ((), torch.bool)}
    )
    env = SlicedEnv(HALVES, mask=lambda agents, t: (agents + t) % 2)
    shown = []

    class Watching(TinyPolicy):
        def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
            if shown:
                before, copy = shown[-1]
                assert all(before[key].equal(copy[key]) for key in copy)
            result = super().forward(td, action)
            pinned = {key: td[key] for key in ("env_obs", "last_actions", "dones", "valid", "batch", "bptt")}
            shown.append((pinned, {key: value.clone() for key, value in pinned.items()}))
            return result

    setup.losses["actor"].policy = Watching()
    setup.loop.rollout_phase(env, setup.context)
    (first, _), (second, _), (third, _) = shown[:3]
    for key in first:
        assert first[key].data_ptr() != second[key].data_ptr(), key
        assert first[key].data_ptr() == third[key].data_ptr(), key


# Absent agents


class Absent(PeekingEnv):
    """Agent 1 is away from step 3 to 5 and agent 2 at step 5, the last of the rollout. `noise` is what they
    show and are paid meanwhile: from the second of those steps on, for what comes with the first is still
    the outcome of a step that counts."""

    def __init__(self, noise: float) -> None:
        self.noise = noise
        super().__init__(
            HALVES,
            reward=lambda agents, t: torch.where(self.meaningless(agents, t), noise, torch.sin(agents + t)),
            mask=lambda agents, t: ~self.away(agents, t),
            autoreset="next_step",
        )

    @staticmethod
    def away(agents: Tensor, t: int) -> Tensor:
        return (agents == 1) & (3 <= t <= 5) | (agents == 2) & (t == 5)

    def meaningless(self, agents: Tensor, t: int) -> Tensor:
        return self.away(agents, t - 1)

    def observation(self, agents: Tensor, t: int) -> Tensor:
        observations = torch.sin(super().observation(agents, t))
        hidden = self.away(agents, t) & self.away(agents, t - 1)
        observations[hidden] = self.noise
        return observations


@pytest.mark.parametrize("boundary", ["exact", "legacy"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("method", ["permutation", "prioritized"])
def test_absent_agents_count_for_nothing(method: str, fused: bool, boundary: str) -> None:
    """Whatever they show, weights and statistics after training are the same to the last bit."""

    def outcome(noise: float) -> tuple[Any, ...]:
        torch.manual_seed(7)
        policy = MLPPolicy((OBS,), 3, hidden=(8,))
        losses = ppo_losses(policy, fused=fused, norm_adv=True)
        spec = policy.get_agent_experience_spec()
        experience = Experience.from_losses(4, 4 * 6, 6, 12, None, spec, losses, "cpu")
        config = LoopConfig(batch_size=24, minibatch_size=12, bptt_horizon=6)
        config.sampling.method, config.sampling.prio_alpha = method, 0.7  # type: ignore[assignment]
        context = ComponentContext(config=config)
        optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
        loop = CoreTrainingLoop(policy, experience, losses, optimizer, "cpu", context, boundary=boundary)  # type: ignore[arg-type]
        steps = loop.rollout_phase(Absent(noise), context).agent_steps
        advantages: list[Tensor] = []
        stats, _ = loop.training_phase(context, 3)
        advantages.append(experience.buffer["advantages_full"])
        decided = {key: experience.stats()[key] for key in ("values", "act_log_prob")}
        invalid = ~experience.buffer["valid"]
        assert invalid.sum() == 4
        assert advantages[0][invalid].count_nonzero() == 0
        weights = [parameter.detach().flatten().tolist() for parameter in policy.parameters()]
        return steps, stats, decided, weights, advantages[0].tolist()

    quiet, loud = outcome(0.5), outcome(900.0)
    assert quiet[0] == 4 * 6 - 4
    assert quiet == loud

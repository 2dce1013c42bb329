"""The suite `step`: all the bookkeeping of a rollout step, without the environment and the policy.

From what an environment returns to a TensorDict for the policy, the last actions in it, and from the
policy's outputs to the buffer, the last actions and the average rewards.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from tensordict import TensorDict
from torch import Tensor

import hotloop
from hotloop import ops
from hotloop.bench.case import FLOOR, Case, Contestant, DisagreementError
from hotloop.bench.rollout_keys import KEYS, step_leaves
from hotloop.bench.suite import Options
from hotloop.bench.suite_store import Walk, moved

SHAPES = ((1024, 64),)  # agents, horizon
_AVERAGING = 1e-3
_TEMPLATE = ("env_obs", "rewards", "dones", "truncateds")


def cases(options: Options) -> Iterator[Case]:
    for agents, horizon in options.shapes or SHAPES:
        if options.wants("step"):
            yield step_case(agents, horizon)


class World:
    """What an environment returns and what a policy answers, the same at every step."""

    def __init__(self, agents: int, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        leaves = step_leaves(agents, seed)
        self.observations, self.rewards = leaves["env_obs"], leaves["rewards"]
        self.terminals = torch.rand(agents, generator=g) < 0.1
        self.truncations = torch.rand(agents, generator=g) < 0.1
        self.answers = {key: leaves[key] for key in ("actions", "act_log_prob", "values")}


class ReferenceStep:
    """As Metta's loop does it (a template that is cloned, `update_at_` with a tensor of rows)."""

    def __init__(self, agents: int, horizon: int) -> None:
        self.agents, self.horizon = slice(0, agents), horizon
        self.buffer = TensorDict(
            {key: torch.zeros(agents, horizon, *shape, dtype=dtype) for key, (shape, dtype) in KEYS.items()},
            batch_size=[agents, horizon],
        )
        self.keys = list(KEYS)
        self.ids = torch.arange(agents)
        self.rows = torch.arange(agents)
        self.t_in_row = torch.zeros(agents, dtype=torch.int64)
        self.last_action = torch.zeros(agents, 1, dtype=torch.int32)
        self.average = torch.zeros(agents)
        self.batch = torch.full((agents,), agents)
        self.bptt = torch.ones(agents, dtype=torch.int64)
        self.template = self.buffer[self.rows, self.t_in_row - 1].select(*_TEMPLATE)
        self.seen: list[Tensor] = []

    def run(self, world: World) -> None:
        td = self.template[self.agents].clone()
        td["env_obs"] = world.observations
        td["rewards"] = world.rewards
        td["training_env_ids"] = self.ids.unsqueeze(1)
        baseline = self.average[self.ids]
        td["reward_baseline"] = baseline
        td["dones"] = world.terminals.float()
        td["truncateds"] = world.truncations.float()
        td["row_id"] = self.rows[self.agents]
        td["t_in_row"] = self.t_in_row[self.agents]
        td["last_actions"] = self.last_action[self.ids]
        td["batch"] = self.batch
        td["bptt"] = self.bptt
        for key, answer in world.answers.items():
            td[key] = answer
        t = int(self.t_in_row[0].item())
        self.buffer.update_at_(td.select(*self.keys), (self.rows[self.agents], t))
        self.t_in_row[self.agents] += 1
        if t + 1 >= self.horizon:
            self.t_in_row[self.agents] = 0
        self.last_action[self.agents] = td["actions"].detach().unsqueeze(1)
        self.average[self.ids] = baseline + _AVERAGING * (td["rewards"].float() - baseline)
        self.seen = [td["last_actions"], td["env_obs"]]


class HotloopStep:
    """`StagePlan` in, `StorePlan` (or `Experience.store`) out."""

    def __init__(self, agents: int, horizon: int, *, experience: bool) -> None:
        self.agents, self.count = slice(0, agents), agents
        self.experience = hotloop.Experience(
            total_agents=agents,
            batch_size=agents * horizon,
            bptt_horizon=horizon,
            minibatch_size=agents * horizon,
            experience_spec=KEYS,
        )
        self.buffer: TensorDict = self.experience.buffer
        self.through_experience = experience
        self.cursors = ops.RowCursors(agents, agents, horizon)
        self.plan = ops.StorePlan(self.buffer, KEYS, self.cursors)
        self.last = ops.LastActions(agents)
        self.average = torch.zeros(agents)
        targets = {key: torch.zeros(agents, *KEYS[key][0], dtype=KEYS[key][1]) for key in _TEMPLATE}
        targets["last_actions"] = torch.zeros(agents, 1, dtype=torch.int32)
        targets["reward_baseline"] = torch.zeros(agents)
        self.stage = ops.StagePlan(targets)
        self.td = TensorDict(
            {
                **targets,
                "training_env_ids": torch.arange(agents).unsqueeze(1),
                "row_id": self.cursors.rows,
                "t_in_row": self.cursors.positions,
                "batch": torch.full((agents,), agents),
                "bptt": torch.ones(agents, dtype=torch.int64),
            },
            batch_size=[agents],
        )
        self.seen = [targets["last_actions"], targets["env_obs"]]

    def run(self, world: World) -> None:
        self.stage.stage(
            [
                world.observations,
                world.rewards,
                world.terminals,
                world.truncations,
                self.last.buffer,
                self.average,
            ]
        )
        td = self.td
        for key, answer in world.answers.items():
            td[key] = answer
        if self.through_experience:
            if self.experience.ready_for_training:
                self.experience.reset_for_rollout()
            self.experience.store(td, self.agents)
            self.last.write_(td["actions"], 0, self.count)
        else:
            self.plan.store(td, 0, self.count, self.last)
        self.average.lerp_(td["rewards"], _AVERAGING)


def step_case(agents: int, horizon: int) -> Case:
    world = World(agents)
    reference = ReferenceStep(agents, horizon)
    plans = HotloopStep(agents, horizon, experience=False)
    experience = HotloopStep(agents, horizon, experience=True)
    contestants = [
        Contestant(FLOOR, "floor", [Walk(agents, horizon)], note="the bytes that are stored"),
        Contestant("hotloop StagePlan, StorePlan", "ours", [lambda: plans.run(world)]),
        Contestant("hotloop StagePlan, Experience.store", "ours", [lambda: experience.run(world)]),
        Contestant("clone, assign, update_at_ (as Metta)", "loop", [lambda: reference.run(world)]),
    ]
    return Case(
        "step", "step", (agents, horizon), moved(agents), contestants, layout="(agents x horizon)",
        check=lambda: _check(agents, min(horizon, 4)), sets=horizon,
    )  # fmt: skip


def _check(agents: int, horizon: int) -> None:
    """A fresh rollout of each, with other data at every step, leaves the same behind."""
    reference = ReferenceStep(agents, horizon)
    ours = [HotloopStep(agents, horizon, experience=through) for through in (False, True)]
    for t in range(horizon):
        world = World(agents, seed=t)
        reference.run(world)
        for step in ours:
            step.run(world)
            for got, wanted in zip(step.seen, reference.seen, strict=True):
                if not torch.equal(got, wanted):
                    raise DisagreementError(f"step: what the policy sees at step {t} differs")
    for step in ours:
        pairs = [(key, step.buffer[key], reference.buffer[key]) for key in KEYS]
        pairs.append(("last actions", step.last.buffer, reference.last_action))
        pairs.append(("average rewards", step.average, reference.average))
        for name, got, wanted in pairs:
            if not torch.allclose(got, wanted, rtol=1e-6, atol=1e-9):
                raise DisagreementError(f"step: {name} differ from what the loop in torch leaves")

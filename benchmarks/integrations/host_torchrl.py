"""TorchRL's ClipPPOLoss and GAE on rollouts from memory (float32 [8], 4 actions), an actor and a critic of
2 x 64 units."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from .subject import Clock, Subject

_STEPS = {64: 128, 1024: 64}
_EPOCHS = 4
_MINIBATCHES = 4
_FUNCTIONS = ("generalized_advantage_estimate", "vec_generalized_advantage_estimate")


def make(job: str, *, hotloop: bool, quick: bool, seed: int) -> Subject:
    agents = int(job.split()[0])
    steps = _STEPS[agents]
    return TorchRLSubject(*((8, 16) if quick else (agents, steps)), "vectorized" in job, hotloop, seed)


class TorchRLSubject(Subject):
    """The rollout is a tensordict that is there already: TorchRL's collector is nothing that hotloop
    replaces."""

    def __init__(self, agents: int, steps: int, vectorized: bool, hotloop: bool, seed: int) -> None:
        self.steps = agents * steps
        self.clock = Clock()
        if hotloop:
            importlib.import_module("hotloop.integrations.torchrl").install()
        estimators: Any = importlib.import_module("torchrl.objectives.value.advantages")
        for name in _FUNCTIONS:
            self.clock.wrap(estimators, name, "advantages")
        modules: Any = importlib.import_module("torchrl.modules")
        tensordict: Any = importlib.import_module("tensordict")
        wrapped: Any = importlib.import_module("tensordict.nn").TensorDictModule
        self._actor = modules.ProbabilisticActor(
            wrapped(_network(4), ["observation"], ["logits"]), in_keys=["logits"],
            distribution_class=modules.OneHotCategorical, return_log_prob=True,
        )  # fmt: skip
        critic = modules.ValueOperator(_network(1), ["observation"])
        self._loss = importlib.import_module("torchrl.objectives").ClipPPOLoss(self._actor, critic)
        self._advantage = estimators.GAE(
            gamma=0.99, lmbda=0.95, value_network=critic, average_gae=True, vectorized=vectorized
        )
        self._optimizer = torch.optim.Adam(self._loss.parameters(), lr=3e-4)
        random = torch.Generator().manual_seed(seed)
        observations = torch.randn(agents, steps + 1, 8, generator=random)
        done = torch.rand(agents, steps, 1, generator=random) < 0.01
        following = {"observation": observations[:, 1:], "done": done, "terminated": done}
        following["reward"] = torch.randn(agents, steps, 1, generator=random)
        self._rollout = tensordict.TensorDict(
            {"observation": observations[:, :-1], "next": following}, [agents, steps], names=[None, "time"]
        )
        version = importlib.import_module("importlib.metadata").version("torchrl")
        self.note = f"torchrl {version}; {steps} steps, GAE(vectorized={vectorized})"

    def iteration(self) -> None:
        with torch.no_grad():
            data = self._actor(self._rollout.clone())
        self._advantage(data)
        flat = data.reshape(-1)
        size = self.steps // _MINIBATCHES
        for _ in range(_EPOCHS):
            order = torch.randperm(self.steps)
            for start in range(0, self.steps, size):
                losses = self._loss(flat[order[start : start + size]])
                total = sum(value for key, value in losses.items() if key.startswith("loss_"))
                self._optimizer.zero_grad()
                total.backward()
                self._optimizer.step()


def _network(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))

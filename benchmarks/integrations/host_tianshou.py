"""Tianshou's PPO on a buffer from memory (float32 [8], 4 actions), an actor and a critic of 2 x 64 units."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch

from .subject import Clock, Subject

_STEPS = {64: 128, 1024: 64}
_SPACE = 8


def make(job: str, *, hotloop: bool, quick: bool, seed: int) -> Subject:
    if hotloop:
        importlib.import_module("hotloop.integrations.tianshou").install()
    agents = int(job.split()[0])
    return TianshouSubject(*((8, 16) if quick else (agents, _STEPS[agents])), seed)


class TianshouSubject(Subject):
    """The buffer is full already: Tianshou's collector is nothing that hotloop replaces. 4 epochs of 4
    minibatches."""

    def __init__(self, agents: int, steps: int, seed: int) -> None:
        self.steps = agents * steps
        self.clock = Clock()
        base: Any = importlib.import_module("tianshou.algorithm.algorithm_base")
        self.clock.wrap(base, "_gae", "advantages")
        self._algorithm = _algorithm()
        self._buffer = _buffer(agents, steps, seed)
        within: Any = importlib.import_module("tianshou.utils.torch_utils")
        self._training = within.torch_train_mode, within.policy_within_training_step
        version = importlib.import_module("importlib.metadata").version("tianshou")
        self.note = f"tianshou {version}; {steps} steps"

    def iteration(self) -> None:
        training, within = self._training
        with within(self._algorithm.policy), training(self._algorithm):
            self._algorithm.update(buffer=self._buffer, batch_size=self.steps // 4, repeat=4)


def _algorithm() -> Any:
    networks: Any = importlib.import_module("tianshou.utils.net.discrete")
    net: Any = importlib.import_module("tianshou.utils.net.common").Net
    reinforce: Any = importlib.import_module("tianshou.algorithm.modelfree.reinforce")
    spaces: Any = importlib.import_module("gymnasium").spaces
    bodies = [net(state_shape=(_SPACE,), hidden_sizes=[64, 64]) for _ in range(2)]
    policy = reinforce.ProbabilisticActorPolicy(
        actor=networks.DiscreteActor(preprocess_net=bodies[0], action_shape=4, softmax_output=False),
        dist_fn=lambda logits: torch.distributions.Categorical(logits=logits),
        action_space=spaces.Discrete(4), action_scaling=False,
    )  # fmt: skip
    optim: Any = importlib.import_module("tianshou.algorithm.optim").AdamOptimizerFactory
    ppo: Any = importlib.import_module("tianshou.algorithm").PPO
    critic = networks.DiscreteCritic(preprocess_net=bodies[1])
    return ppo(policy=policy, critic=critic, optim=optim(lr=3e-4), max_batchsize=8192)


def _buffer(agents: int, steps: int, seed: int) -> Any:
    data: Any = importlib.import_module("tianshou.data")
    rng = np.random.default_rng(seed)
    buffer = data.VectorReplayBuffer(agents * steps, agents)
    observations = rng.normal(size=(steps + 1, agents, _SPACE)).astype(np.float32)
    never = np.zeros(agents, bool)
    for step in range(steps):
        terminated = rng.random(agents) < 0.01
        buffer.add(
            data.Batch(
                obs=observations[step], obs_next=observations[step + 1], act=rng.integers(0, 4, agents),
                rew=rng.normal(size=agents), terminated=terminated, truncated=never, done=terminated, info={},
            )
        )  # fmt: skip
    return buffer

"""The three jobs, and the hyperparameters that all contestants share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

EnvironmentKind = Literal["gymnasium", "envpool", "memory"]


@dataclass(frozen=True)
class Hyperparameters:
    """CleanRL's defaults for PPO, without annealing. `minibatches` and `update_epochs` are a job's own."""

    learning_rate: float = 2.5e-4
    adam_eps: float = 1e-5
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_coef: float = 0.2
    ent_coef: float = 0.01
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5


HYPER = Hyperparameters()


@dataclass(frozen=True)
class Job:
    """One epoch: `agents` step `horizon` times, then `update_epochs` passes over `minibatches` minibatches.

    `obs_dtype` is `float32` or `uint8`; there are `actions` choices. `learn_steps`: agent steps after which
    learning is looked at; 0 where there is nothing to learn.
    """

    name: str
    title: str
    environment: EnvironmentKind
    agents: int
    horizon: int
    minibatches: int
    update_epochs: int
    obs_shape: tuple[int, ...]
    obs_dtype: str
    actions: int
    learn_steps: int = 0

    @property
    def batch_size(self) -> int:
        """Agent steps of an epoch."""
        return self.agents * self.horizon

    @property
    def minibatch_size(self) -> int:
        return self.batch_size // self.minibatches

    @property
    def obs_size(self) -> int:
        return math.prod(self.obs_shape)

    def quick(self) -> Job:
        """The same job with few agents and a short horizon: shows that everything runs, measures nothing."""
        return replace(self, agents=min(self.agents, 8), horizon=16, learn_steps=min(self.learn_steps, 512))


JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        Job(
            "E1", "64 Gymnasium CartPoles, 2x64 tanh", "gymnasium", agents=64, horizon=128, minibatches=4,
            update_epochs=4, obs_shape=(4,), obs_dtype="float32", actions=2, learn_steps=327_680,
        ),
        Job(
            "E2", "1,024 EnvPool CartPoles, 2x64 tanh", "envpool", agents=1024, horizon=64, minibatches=4,
            update_epochs=2, obs_shape=(4,), obs_dtype="float32", actions=2, learn_steps=1_966_080,
        ),
        Job(
            "E3", "1,024 agents with uint8 [200, 3] from memory, 600 to 128", "memory", agents=1024,
            horizon=64, minibatches=4, update_epochs=1, obs_shape=(200, 3), obs_dtype="uint8", actions=16,
        ),
    )
}  # fmt: skip

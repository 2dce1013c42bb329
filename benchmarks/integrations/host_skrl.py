"""skrl's PPO on observations from memory (float32 [8], 4 actions), an actor and a critic of 2 x 64 units."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .subject import Clock, Subject

_RING = 32  # sets of observations
_STEPS = {64: 128, 1024: 32}


def make(job: str, *, hotloop: bool, quick: bool, seed: int) -> Subject:
    if hotloop:
        importlib.import_module("hotloop.integrations.skrl").install()
    agents = int(job.split()[0])
    return SkrlSubject(*((8, 16) if quick else (agents, _STEPS[agents])), seed)


class SkrlSubject(Subject):
    """8 epochs of 4 minibatches; skrl's own defaults are 8 and 2."""

    def __init__(self, agents: int, steps: int, seed: int) -> None:
        self.steps, self._count = agents * steps, steps
        self.clock = Clock()
        ppo: Any = importlib.import_module("skrl.agents.torch.ppo.ppo")
        self.clock.wrap(ppo, "compute_gae", "advantages")
        spaces: Any = importlib.import_module("gymnasium").spaces
        space = {"observation_space": spaces.Box(-np.inf, np.inf, (8,)), "action_space": spaces.Discrete(4)}
        memory: Any = importlib.import_module("skrl.memories.torch").RandomMemory
        self._agent = ppo.PPO(
            models={"policy": _model("Categorical", 4, space), "value": _model("Deterministic", 1, space)},
            memory=memory(memory_size=steps, num_envs=agents, device="cpu"), device="cpu",
            cfg={
                "rollouts": steps, "mini_batches": 4,
                "experiment": {"write_interval": 0, "checkpoint_interval": 0},
            },
            **space,
        )  # fmt: skip
        self._agent.init()
        self._agent.enable_training_mode(True)
        random = torch.Generator().manual_seed(seed)
        self._ring = torch.randn(_RING, agents, 8, generator=random)
        self._rewards = torch.randn(_RING, agents, 1, generator=random)
        self._dones = torch.rand(_RING, agents, 1, generator=random) < 0.01
        self.note = f"skrl {importlib.import_module('skrl').__version__}; {steps} steps"

    def iteration(self) -> None:
        agent, at = self._agent, {"timestep": 0, "timesteps": self._count}
        never = torch.zeros_like(self._dones[0])
        for step in range(self._count):
            now, following = step % _RING, (step + 1) % _RING
            with torch.no_grad():
                actions, _ = agent.act(self._ring[now], None, **at)
                agent.record_transition(
                    observations=self._ring[now], states=None, actions=actions,
                    rewards=self._rewards[now].clone(), next_observations=self._ring[following],
                    next_states=None, terminated=self._dones[now], truncated=never, infos={}, **at,
                )  # fmt: skip
            agent.post_interaction(**at)


def _model(kind: str, outputs: int, space: dict[str, Any]) -> Any:
    models: Any = importlib.import_module("skrl.models.torch")
    mixin: Any = getattr(models, f"{kind}Mixin")

    class Model(mixin, models.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            models.Model.__init__(self, device="cpu", **space)
            mixin.__init__(self)
            self.net = nn.Sequential(
                nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
            )

        def compute(self, inputs: dict[str, Any], role: str) -> tuple[Tensor, dict[str, Any]]:
            return self.net(inputs["observations"]), {}

    return Model()

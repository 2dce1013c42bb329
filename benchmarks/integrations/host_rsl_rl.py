"""rsl_rl's runner and PPO on observations from memory (float32 [48]), actor and critic of 3 x 128 units."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from .subject import Clock, Subject

_RING = 32  # sets of observations
_OBSERVATION = 48  # as of a legged robot on flat ground
_ACTIONS = 12


def make(job: str, *, hotloop: bool, quick: bool, seed: int) -> Subject:
    if hotloop:
        importlib.import_module("hotloop.integrations.rsl_rl").install()
    agents = int(job.split()[0])
    return RslSubject(16 if quick else agents, recurrent="recurrent" in job, seed=seed)


class RslSubject(Subject):
    """24 steps, 4 minibatches, 5 epochs: what rsl_rl's users take."""

    def __init__(self, agents: int, recurrent: bool, seed: int) -> None:
        steps = 24
        self.steps = agents * steps
        self.clock = Clock()
        algorithms: Any = importlib.import_module("rsl_rl.algorithms")
        storage: Any = importlib.import_module("rsl_rl.storage").RolloutStorage
        self.clock.wrap(algorithms.PPO, "compute_returns", "returns (with the critic's last values)")
        self.clock.wrap(storage, "add_transition", "storage")
        self.clock.wrap(storage, "mini_batch_generator", "minibatches")
        self.clock.wrap(storage, "recurrent_mini_batch_generator", "minibatches")
        network: dict[str, Any] = {
            "class_name": "MLPModel",
            "hidden_dims": [128, 128, 128],
            "activation": "elu",
        }
        if recurrent:
            network |= {
                "class_name": "RNNModel",
                "rnn_type": "lstm",
                "rnn_hidden_dim": 64,
                "hidden_dims": [64],
            }
        config = {
            "num_steps_per_env": steps, "save_interval": 10**9, "obs_groups": {"actor": ["policy"]},
            "actor": {**network, "distribution_cfg": {"class_name": "GaussianDistribution"}},
            "critic": network, "algorithm": {"class_name": "PPO"}, "check_for_nan": False,
        }  # fmt: skip
        runner: Any = importlib.import_module("rsl_rl.runners").OnPolicyRunner
        self._runner = runner(Memory(agents, seed), config, log_dir=None, device="cpu")
        self.note = "rsl-rl-lib " + importlib.import_module("importlib.metadata").version("rsl-rl-lib")

    def iteration(self) -> None:
        self._runner.learn(1)


class Memory:
    """Environments that cost next to nothing."""

    num_actions, max_episode_length, device = _ACTIONS, 100, "cpu"

    def __init__(self, agents: int, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        tensordict: Any = importlib.import_module("tensordict").TensorDict
        self.num_envs, self.cfg, self._at = agents, {"seed": seed}, 0
        self.episode_length_buf = torch.zeros(agents, dtype=torch.int64)
        self._ring = [
            tensordict({"policy": torch.randn(agents, _OBSERVATION, generator=random)}, batch_size=[agents])
            for _ in range(_RING)
        ]
        chance = torch.rand(2, _RING, agents, generator=random)
        self._dones, self._outs = (chance[0] < 0.02).long(), chance[1] < 0.5
        self._rewards = torch.randn(_RING, agents, generator=random)

    def get_observations(self) -> Any:
        return self._ring[self._at]

    def step(self, actions: Tensor) -> tuple[Any, Tensor, Tensor, dict[str, Tensor]]:
        self._at = at = (self._at + 1) % _RING
        out = self._outs[at] & (self._dones[at] != 0)
        return self._ring[at], self._rewards[at], self._dones[at], {"time_outs": out}

"""rl_games' discrete PPO on observations from memory (float32 [8], 4 actions), a network of 2 x 64 units."""

from __future__ import annotations

import importlib
import tempfile
from typing import Any

import numpy as np
import torch

from .subject import Clock, Subject

_RING = 32  # sets of observations
_STEPS = {64: 128, 1024: 32}


def make(job: str, *, hotloop: bool, quick: bool, seed: int) -> Subject:
    if hotloop:
        importlib.import_module("hotloop.integrations.rl_games").install()
    agents = int(job.split()[0])
    return RlGamesSubject(*((8, 16) if quick else (agents, _STEPS[agents])), seed)


class RlGamesSubject(Subject):
    """4 epochs of 4 minibatches."""

    def __init__(self, agents: int, steps: int, seed: int) -> None:
        self.steps = agents * steps
        self.clock = Clock()
        base: Any = importlib.import_module("rl_games.common.a2c_common").A2CBase
        self.clock.wrap(base, "discount_values", "advantages")
        self._folder = tempfile.TemporaryDirectory()
        runner: Any = importlib.import_module("rl_games.torch_runner").Runner()
        runner.load({"params": _params(agents, steps, seed, self._folder.name)})
        torch.set_float32_matmul_precision("highest")  # the runner asks for less
        self._agent = runner.algo_factory.create(runner.algo_name, base_name="run", params=runner.params)
        self._agent.init_tensors()
        self._agent.obs = self._agent.env_reset()
        version = importlib.import_module("importlib.metadata").version("rl-games")
        self.note = f"rl-games {version}; {steps} steps"

    def iteration(self) -> None:
        self._agent.update_epoch()
        self._agent.train_epoch()
        self._agent.dataset.update_values_dict(None)

    def close(self) -> None:
        self._agent.writer.close()
        self._folder.cleanup()


def _params(agents: int, steps: int, seed: int, folder: str) -> dict[str, Any]:
    vecenv: Any = importlib.import_module("rl_games.common.vecenv")
    environments: Any = importlib.import_module("rl_games.common.env_configurations")
    vecenv.register("MEMORY", lambda name, actors, **kwargs: Memory(actors, seed))
    environments.register("memory", {"vecenv_type": "MEMORY", "env_creator": None})
    mlp = {"units": [64, 64], "activation": "tanh", "initializer": {"name": "default"}}
    network = {"name": "actor_critic", "separate": True, "space": {"discrete": None}, "mlp": mlp}
    config = {
        "name": "memory", "env_name": "memory", "env_config": {}, "reward_shaper": {"scale_value": 1.0},
        "normalize_advantage": True, "normalize_input": False, "gamma": 0.99, "tau": 0.95,
        "learning_rate": 3e-4, "lr_schedule": None, "kl_threshold": 0.01, "grad_norm": 1.0,
        "truncate_grads": True, "entropy_coef": 0.01, "critic_coef": 1, "e_clip": 0.2, "clip_value": True,
        "num_actors": agents, "horizon_length": steps, "minibatch_size": agents * steps // 4,
        "mini_epochs": 4, "device": "cpu", "print_stats": False, "train_dir": folder,
    }  # fmt: skip
    return {
        "seed": seed or 1, "algo": {"name": "a2c_discrete"}, "model": {"name": "discrete_a2c"},
        "network": network, "load_checkpoint": False, "config": config,
    }  # fmt: skip


class Memory:
    """Environments that cost next to nothing."""

    def __init__(self, agents: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._ring = [rng.normal(size=(agents, 8)).astype(np.float32) for _ in range(_RING)]
        self._rewards = [rng.normal(size=agents).astype(np.float32) for _ in range(_RING)]
        self._dones = [rng.random(agents) < 0.01 for _ in range(_RING)]
        self._at = 0

    def get_env_info(self) -> dict[str, Any]:
        spaces: Any = importlib.import_module("gymnasium").spaces
        return {
            "action_space": spaces.Discrete(4), "agents": 1,
            "observation_space": spaces.Box(-np.inf, np.inf, (8,), np.float32),
        }  # fmt: skip

    def set_train_info(self, frames: int, *args: Any) -> None:
        return

    def has_action_masks(self) -> bool:
        return False

    def reset(self) -> Any:
        return self._ring[self._at]

    def step(self, actions: Any) -> tuple[Any, ...]:
        self._at = at = (self._at + 1) % _RING
        return self._ring[at], self._rewards[at], self._dones[at], {}

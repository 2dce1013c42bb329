"""Stable-Baselines3's PPO on observations from memory (float32 [8], 4 actions), an actor and a critic of
2 x 64 units."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from .subject import Clock, Subject

# Steps and minibatch size by the number of agents; ten epochs, as by default.
_SIZES = {8: (256, 64), 64: (128, 256), 1024: (32, 4096)}
_RING = 32  # sets of observations


def make(job: str, *, hotloop: bool, quick: bool, seed: int) -> Subject:
    agents = int(job.split()[0])
    steps, minibatch = (16, 64) if quick else _SIZES[agents]
    return Sb3Subject(8 if quick else agents, steps, minibatch, hotloop, seed)


class Sb3Subject(Subject):
    def __init__(self, agents: int, steps: int, minibatch: int, hotloop: bool, seed: int) -> None:
        self.steps = agents * steps
        self.clock = Clock()
        host: Any = importlib.import_module("stable_baselines3")
        buffer = importlib.import_module("hotloop.integrations.sb3").HotRolloutBuffer if hotloop else None
        self._model = host.PPO(
            "MlpPolicy", _memory(agents, seed), n_steps=steps, batch_size=minibatch, n_epochs=10,
            rollout_buffer_class=buffer, device="cpu", seed=seed,
        )  # fmt: skip
        for name, part in (
            ("reset", "storage"),
            ("add", "storage"),
            ("compute_returns_and_advantage", "advantages"),
            ("get", "minibatches"),
        ):
            self.clock.wrap(self._model.rollout_buffer, name, part)
        self.note = f"stable-baselines3 {host.__version__}; {steps} steps, minibatches of {minibatch}"

    def iteration(self) -> None:
        self._model.learn(self.steps, reset_num_timesteps=False, log_interval=None)


def _memory(agents: int, seed: int) -> Any:
    """Environments that cost next to nothing."""
    base: Any = importlib.import_module("stable_baselines3.common.vec_env").VecEnv
    spaces: Any = importlib.import_module("gymnasium").spaces
    rng = np.random.default_rng(seed)

    class Memory(base):  # type: ignore[misc]
        def __init__(self) -> None:
            observations = spaces.Box(-np.inf, np.inf, (8,), np.float32)
            super().__init__(agents, observations, spaces.Discrete(4))
            self._ring = [rng.normal(size=(agents, 8)).astype(np.float32) for _ in range(_RING)]
            self._rewards = [rng.normal(size=agents).astype(np.float32) for _ in range(_RING)]
            self._dones = [rng.random(agents) < 0.01 for _ in range(_RING)]
            self._infos: list[dict[str, Any]] = [{} for _ in range(agents)]
            self._at = 0

        def reset(self) -> Any:
            return self._ring[self._at]

        def step_async(self, actions: Any) -> None:
            self._at = (self._at + 1) % _RING

        def step_wait(self) -> Any:
            at = self._at
            return self._ring[at], self._rewards[at].copy(), self._dones[at], self._infos

        def close(self) -> None:
            return

        def get_attr(self, name: str, indices: Any = None) -> list[Any]:
            return [None] * agents

        def set_attr(self, name: str, value: Any, indices: Any = None) -> None:
            raise NotImplementedError(f"Memory has no attribute {name} to set")

        def env_method(self, name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            raise NotImplementedError(f"Memory has no method {name}")

        def env_is_wrapped(self, wrapper: Any, indices: Any = None) -> list[bool]:
            return [True] * agents

    return Memory()

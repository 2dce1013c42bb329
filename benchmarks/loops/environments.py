"""The environments, as NumPy arrays: what every contestant steps, each through its own adapter.

`hotloop`'s adapters step the same objects: see `contest_hotloop`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .jobs import Job

CARTPOLE = "CartPole-v1"
_RING = 64  # sets of observations: with 1,024 agents 39 MB, more than the last level of most caches
_EPISODE = 100  # mean steps of an episode out of memory

Array = npt.NDArray[Any]


class AbsentError(Exception):
    """A contestant cannot take part; the message says why."""


class Vector(Protocol):
    """A batch of environments that restart by themselves.

    `finished`: returns of the episodes that have ended. `final_obs`: where the newest step says so, the last
    observations of the episodes that it ended (None for the others).
    """

    finished: list[float]
    final_obs: Any

    def reset(self) -> Array:
        """The first observations, [n, *obs_shape]."""

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        """Observations, rewards [n], terminated [n] and truncated [n] after actions int [n]."""

    def close(self) -> None:
        """Releases the environments."""


def make_vector(job: Job, threads: int, seed: int) -> Vector:
    """The environments of a job. AbsentError: their package is not installed."""
    if job.environment == "gymnasium":
        return GymnasiumVector(job.agents, seed)
    if job.environment == "envpool":
        return EnvPoolVector(job.agents, threads, seed)
    return MemoryVector(job, seed)


class Episodes:
    """Sums of rewards of the episodes under way, and those that have ended."""

    def __init__(self, agents: int) -> None:
        self._running = np.zeros(agents)
        self.finished: list[float] = []

    def add(self, rewards: Array, dones: Array) -> None:
        self._running += rewards
        if dones.any():
            self.finished.extend(self._running[dones].tolist())
            self._running[dones] = 0.0


def sync_cartpoles(agents: int) -> Any:
    """Gymnasium's `SyncVectorEnv`, in this process; a new episode begins in the step that ends one."""
    try:
        import gymnasium
    except ImportError as error:
        raise AbsentError(f"gymnasium does not import: {error}") from error
    modes = gymnasium.vector.AutoresetMode
    return gymnasium.make_vec(
        CARTPOLE, agents, vectorization_mode="sync", vector_kwargs={"autoreset_mode": modes.SAME_STEP}
    )


class GymnasiumVector:
    def __init__(self, agents: int, seed: int) -> None:
        self._env = sync_cartpoles(agents)
        self._seed = seed
        self._episodes = Episodes(agents)
        self.finished = self._episodes.finished
        self.final_obs: Any = None

    def reset(self) -> Array:
        observations: Array = self._env.reset(seed=self._seed)[0]
        return observations

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        observations, rewards, terminated, truncated, infos = self._env.step(actions)
        self.final_obs = infos.get("final_obs")
        self._episodes.add(rewards, terminated | truncated)
        return observations, rewards, terminated, truncated

    def close(self) -> None:
        self._env.close()


class EnvPoolVector:
    """EnvPool's C++ environments on `threads` threads; the step after an episode's end begins the next."""

    def __init__(self, agents: int, threads: int, seed: int) -> None:
        try:
            import envpool
        except ImportError as error:
            raise AbsentError(f"envpool does not import: {error}") from error
        with all_cores():
            self._pool = envpool.make(
                CARTPOLE, env_type="gymnasium", num_envs=agents, num_threads=threads, seed=seed
            )
        self._episodes = Episodes(agents)
        self.finished = self._episodes.finished
        self.final_obs: Any = None

    def reset(self) -> Array:
        observations: Array = self._pool.reset()[0]
        return observations

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        observations, rewards, terminated, truncated, _ = self._pool.step(
            actions.astype(np.int32, copy=False)
        )
        self._episodes.add(rewards, terminated | truncated)
        return observations, rewards, terminated, truncated

    def close(self) -> None:
        self._pool.close()


@contextmanager
def all_cores() -> Iterator[None]:
    """Threads that are started inside may run anywhere: bound to cores, OpenMP binds this thread to one, and
    others would inherit that."""
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    bound = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, bound)


class MemoryVector:
    """Observations from a ring that was filled before, so that an environment costs next to nothing. An
    action is worth 1 where it is the one that was drawn for the observation."""

    def __init__(self, job: Job, seed: int) -> None:
        random = np.random.default_rng(seed)
        shape = (_RING, job.agents)
        self.ring = random.integers(0, 256, (*shape, *job.obs_shape), dtype=np.uint8)
        self.dones = random.random(shape) < 1.0 / _EPISODE
        self.wanted = random.integers(0, job.actions, shape)
        self.never = np.zeros(job.agents, dtype=np.bool_)
        self.at = 0
        self.finished: list[float] = []
        self.final_obs: Any = None

    def reset(self) -> Array:
        observations: Array = self.ring[self.at]
        return observations

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        rewards = (actions == self.wanted[self.at]).astype(np.float32)
        self.at = (self.at + 1) % _RING
        return self.ring[self.at], rewards, self.dones[self.at], self.never

    def close(self) -> None:
        pass

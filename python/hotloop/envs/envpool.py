"""EnvPool environments (Weng et al. 2022): stepped by a pool of C++ threads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hotloop.envs.actions import ActionBounds, DiscreteActions
from hotloop.envs.gymnasium_make import actions_of, gymnasium
from hotloop.envs.protocol import AutoresetMode, StepBatch
from hotloop.envs.statistics import EpisodeStatistics, StepBooks

try:
    import envpool
except ImportError as error:
    raise ImportError(
        f"hotloop.envs.EnvPoolEnvironment needs envpool ({error}): pip install 'hotloop[envpool]'"
    ) from error


class EnvPoolEnvironment:
    """Serves ``envpool.make(env_id, env_type="gymnasium")`` to a training loop, in one slice or in several.

    With ``slices=2`` the environments are two pools: while the policy acts on one, the threads step the
    other. Every slice is a contiguous range of agents and is served in turn.

    EnvPool restarts episodes as Gymnasium's NEXT_STEP autoreset does: the observation that arrives with a
    done is the final one, the action sent there is ignored (``mask`` False), and the next row is the first of
    the next episode, with reward 0. Its state cannot be saved: a resumed run starts fresh episodes.

    Of Atari games, whose package holds the ROMs, whole games with the game's own score are reported, whatever
    ``reward_clip`` and ``episodic_life`` make of the rewards and episodes that training sees.

    Args:
        env_id: an id of ``envpool.list_all_envs()``.
        num_envs: number of environments over all slices.
        seed: non-negative; environment i is seeded with ``seed + i``, however many slices there are.
        slices: pools that the environments are divided over; must divide ``num_envs``.
        num_threads: threads of each pool; 0 lets EnvPool choose.
        env_kwargs: options of the environment, ``max_episode_steps`` among them.
        action_bounds: as in ``GymnasiumEnvironment``.

    Raises:
        TypeError: observation space not Box; action space not Discrete, MultiDiscrete or Box.
        ValueError: an unknown id, or an argument out of range.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        *,
        seed: int,
        slices: int = 1,
        num_threads: int = 0,
        env_kwargs: Mapping[str, Any] | None = None,
        action_bounds: ActionBounds = "clip",
    ) -> None:
        if env_id not in envpool.list_all_envs():
            raise ValueError(f"EnvPoolEnvironment: env_id must be one of envpool's, got {env_id!r}")
        if num_envs < 1 or slices < 1 or num_envs % slices:
            raise ValueError(
                "EnvPoolEnvironment: num_envs must be a positive multiple of slices, got "
                f"num_envs={num_envs} and slices={slices}"
            )
        if seed < 0:
            raise ValueError(f"EnvPoolEnvironment: seed must not be negative, got {seed}")
        self._id = env_id
        self._slices: list[_Slice] = []
        self._turn = 0
        n = num_envs // slices
        for start in range(0, num_envs, n):
            pool = envpool.make(
                env_id,
                env_type="gymnasium",
                num_envs=n,
                batch_size=n,
                num_threads=num_threads,
                seed=seed + start,
                **(env_kwargs or {}),
            )
            if not isinstance(pool.observation_space, gymnasium.spaces.Box):
                raise TypeError(
                    f"EnvPoolEnvironment: observation space must be Box, got {pool.observation_space}"
                )
            space, convert = actions_of(pool.action_space, n, action_bounds)
            self._slices.append(_Slice(pool, start, n, convert))
        self._observation_space: gymnasium.spaces.Box = pool.observation_space
        self._action_space = space

    @property
    def total_parallel_agents(self) -> int:
        """Agents over all slices, one an environment."""
        return len(self._slices) * self._slices[0].num_envs

    @property
    def batch_info(self) -> _Slice:
        """``batch_info.num_envs``: environments in one slice."""
        return self._slices[0]

    @property
    def single_observation_space(self) -> gymnasium.spaces.Box:
        """Observation space of one environment."""
        return self._observation_space

    @property
    def single_action_space(self) -> gymnasium.Space[Any]:
        """What ``send_actions`` takes for one environment: its own space, or [-1, 1] when scaling."""
        return self._action_space

    @property
    def autoreset(self) -> AutoresetMode:
        """``"next_step"``."""
        return "next_step"

    def final_observations(self) -> None:
        """None: the final observation is in the row itself."""
        return None

    def get_observations(self) -> StepBatch:
        """The newest step of the slice whose turn it is; waits for its threads. See ``StepBatch``.

        Calling it again before ``send_actions`` returns the same step.
        """
        return self._slice("get_observations").newest()

    def peek_observations(self) -> Iterator[StepBatch]:
        """The newest step of every slice in the order of their turns, waiting for their threads."""
        self._slice("peek_observations")
        for each in self._slices[self._turn :] + self._slices[: self._turn]:
            yield each.newest()

    def send_actions(self, actions: npt.NDArray[Any]) -> None:
        """Sends actions to the slice served last and returns at once; the next slice has its turn.

        Raises:
            TypeError, ValueError: as ``GymnasiumEnvironment.send_actions``.
        """
        self._slice("send_actions").send(np.asarray(actions))
        self._turn = (self._turn + 1) % len(self._slices)

    def close(self) -> None:
        """Ends the pools."""
        for each in self._slices:
            each.close()
        self._slices = []

    def _slice(self, what: str) -> _Slice:
        if not self._slices:
            raise RuntimeError(f"{what}: the environment is closed")
        return self._slices[self._turn]

    def __repr__(self) -> str:
        return f"EnvPoolEnvironment({self._id!r}, slices={len(self._slices)})"


class _Slice:
    """One pool: agents ``start`` to ``start + num_envs``, its newest step, and whether it is stepping."""

    def __init__(self, pool: Any, start: int, num_envs: int, convert: Any) -> None:
        self.num_envs = num_envs
        # EnvPool has a fixed dtype for every choice, whatever the space says.
        self._pool = pool
        self._convert = convert.to(np.int32) if isinstance(convert, DiscreteActions) else convert
        self._window = slice(start, start + num_envs)
        self._statistics = EpisodeStatistics(num_envs)
        space = pool.observation_space
        self._observations = np.zeros((num_envs, *space.shape), dtype=space.dtype)
        self._rewards = np.zeros(num_envs, dtype=np.float32)
        self._terminals = np.zeros(num_envs, dtype=np.bool_)
        self._truncations = np.zeros(num_envs, dtype=np.bool_)
        self._mask = np.ones(num_envs, dtype=np.bool_)
        self._infos: list[dict[str, Any]] = []
        buffers = (self._observations, self._rewards, self._terminals, self._truncations, self._mask)
        self._num_steps = num_envs
        self._books = StepBooks(*buffers, self._statistics, first_agent=start, next_step=True)
        self._tensors: tuple[Tensor, ...] = tuple(map(torch.from_numpy, buffers))
        observations, _ = pool.reset()
        np.copyto(self._observations, observations)
        self._stepping = False

    def newest(self) -> StepBatch:
        if self._stepping:
            observations, rewards, terminals, truncations, infos = self._pool.recv()
            self._stepping = False
            if "reward" in infos and "terminated" in infos:
                self._infos = self._take_game(observations, rewards, terminals, truncations, infos)
            else:
                self._infos, self._num_steps, _ = self._books.take(
                    observations, rewards, terminals, truncations
                )
        observations, rewards, terminals, truncations, mask = self._tensors
        infos, steps = self._infos, self._num_steps
        return observations, rewards, terminals, truncations, infos, self._window, mask, steps

    def _take_game(
        self, observations: Any, rewards: Any, terminals: Any, truncations: Any, infos: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Of Atari games, which tell their own score and end beside what training is shown: that may be
        clipped, and end with a life."""
        np.copyto(self._observations, observations)
        self._rewards[:], self._terminals[:], self._truncations[:] = rewards, terminals, truncations
        over = infos["terminated"].astype(np.bool_) | self._truncations
        # The mask still is that of the rows that the actions were sent from.
        finished = self._statistics.update(infos["reward"], over & self._mask, self._mask)
        for info in finished:
            info["agent_id"] += self._window.start
        np.logical_not(self._terminals | self._truncations, out=self._mask)
        self._num_steps = int(np.count_nonzero(self._mask))
        return finished

    def send(self, actions: npt.NDArray[Any]) -> None:
        self._pool.send(self._convert(actions))
        self._stepping = True

    def close(self) -> None:
        if self._stepping:
            self._pool.recv()  # threads still write into its buffers
        self._pool.close()

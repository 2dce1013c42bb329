"""Gymnasium environments as a ``TrainingEnvironment``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hotloop.envs import snapshot
from hotloop.envs.actions import ActionBounds
from hotloop.envs.gymnasium_make import (
    Vectorization,
    actions_of,
    autoreset_of,
    gymnasium,
    make_vector_env,
    observation_space_of,
)
from hotloop.envs.processes import lost
from hotloop.envs.protocol import AutoresetMode, EnvironmentCount, StepBatch
from hotloop.envs.statistics import EpisodeStatistics, StepBooks, recorded

_STATE_VERSION = 1
_SETTLE_SECONDS = 10.0  # for one last step when closing; beyond that workers are ended


class GymnasiumEnvironment:
    """Serves ``gymnasium.make_vec(env_id, num_envs)`` to a training loop, all environments in one slice.

    A step's tensors are views of buffers that are created once; they hold until ``get_observations`` fetches
    the next step. Fetching twice without ``send_actions`` in between returns the same step again, infos
    included. Synchronous environments step inside ``get_observations``, asynchronous ones from
    ``send_actions`` on.

    Autoreset (see ``hotloop.envs.ReportsAutoreset``): synchronous and asynchronous vectorisation default to
    SAME_STEP, which wastes no step. A vector entry point has a fixed mode; that of CartPole-v1 is NEXT_STEP,
    whose filler rows come with ``mask`` False. DISABLED is refused.

    Resuming: ``can_save_state`` tells whether ``state_dict`` holds everything that decides the future, so
    that a fresh instance built with the same arguments goes on to the last bit (``snapshot.py`` says for
    which environments). Where it is False (other processes, simulators with hidden state), a resumed run
    starts fresh episodes: the running ones are lost and appear in no statistic. Give that instance another
    seed, or it replays the first episodes of the run.

    Args:
        env_id: id in Gymnasium's registry (``"module:Env-v0"`` imports the module first) or an ``EnvSpec``.
        num_envs: number of environments, n.
        seed: non-negative int, or None for an unpredictable one. Environment i of a synchronous or
            asynchronous vectorisation is seeded with ``seed + i``.
        vectorization: ``"auto"`` takes the vector entry point where the environment has one that fits the
            other arguments, else ``"sync"``. ``"async"`` runs every environment in a process of its own, in
            which SIGINT is ignored, so that an interrupted trainer can still save its work.
        autoreset: ``"same_step"``, ``"next_step"``, or None for the default above.
        env_kwargs: arguments of the environment, ``max_episode_steps`` among them.
        vector_kwargs: arguments of ``SyncVectorEnv`` or ``AsyncVectorEnv``.
        wrappers: applied in order to each environment; not with a vector entry point.
        action_bounds: for Box actions. ``"clip"`` clips to the space's bounds; ``"scale"`` takes actions in
            [-1, 1], clips them to it and maps them onto the bounds; ``"none"`` passes them through.
        recorded_episodes: report the episodes that ``gymnasium.wrappers.RecordEpisodeStatistics``, among the
            wrappers, puts into the infos, instead of counting rewards: for wrappers that change rewards or
            end episodes early.

    Raises:
        TypeError: observation space not Box; action space not Discrete, MultiDiscrete or Box.
        ValueError: argument out of range, or an autoreset mode that the environment does not have.
    """

    def __init__(
        self,
        env_id: str | gymnasium.envs.registration.EnvSpec,
        num_envs: int,
        *,
        seed: int | None,
        vectorization: Vectorization = "auto",
        autoreset: AutoresetMode | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        vector_kwargs: Mapping[str, Any] | None = None,
        wrappers: Sequence[Callable[[Any], Any]] = (),
        action_bounds: ActionBounds = "clip",
        recorded_episodes: bool = False,
    ) -> None:
        vector_env, chosen = make_vector_env(
            env_id,
            num_envs,
            vectorization,
            autoreset,
            dict(env_kwargs or {}),
            dict(vector_kwargs or {}),
            list(wrappers),
        )
        self._start(vector_env, chosen, seed, action_bounds, recorded_episodes)

    @classmethod
    def from_vector_env(
        cls,
        vector_env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        seed: int | None,
        action_bounds: ActionBounds = "clip",
        recorded_episodes: bool = False,
    ) -> GymnasiumEnvironment:
        """Serves a vector environment that exists already, and owns it from now on.

        Arguments and errors as in the constructor.
        """
        self = cls.__new__(cls)
        self._start(vector_env, "given", seed, action_bounds, recorded_episodes)
        return self

    def _start(
        self,
        vector_env: Any,
        vectorization: str,
        seed: int | None,
        action_bounds: ActionBounds,
        recorded_episodes: bool,
    ) -> None:
        self._closed = self._lost = False
        self._reads_recorded = recorded_episodes
        self._env = vector_env
        self._vectorization = vectorization
        self._is_async = isinstance(vector_env, gymnasium.vector.AsyncVectorEnv)
        self._pending: npt.NDArray[Any] | None = None
        try:
            n = int(vector_env.num_envs)
            self._autoreset = autoreset_of(vector_env)
            self._observation_space = observation_space_of(vector_env)
            self._action_space, self._convert = actions_of(vector_env.single_action_space, n, action_bounds)
            self._batch_info = EnvironmentCount(n)
            self._statistics = EpisodeStatistics(n)
            shape = (n, *self._observation_space.shape)
            self._observations: npt.NDArray[Any] = np.zeros(shape, dtype=self._observation_space.dtype)
            self._final: npt.NDArray[Any] = np.zeros_like(self._observations)
            self._rewards = np.zeros(n, dtype=np.float32)
            self._terminals = np.zeros(n, dtype=np.bool_)
            self._truncations = np.zeros(n, dtype=np.bool_)
            self._mask = np.ones(n, dtype=np.bool_)
            self._num_steps = n
            self._books = StepBooks(
                self._observations,
                self._rewards,
                self._terminals,
                self._truncations,
                self._mask,
                self._statistics,
                next_step=self._autoreset == "next_step",
            )
            self._tensors = tuple(
                torch.from_numpy(buffer)
                for buffer in (
                    self._observations,
                    self._rewards,
                    self._terminals,
                    self._truncations,
                    self._mask,
                )
            )
            self._final_tensor = torch.from_numpy(self._final)
            self.reset(seed=seed)
        except BaseException:
            self.close()
            raise

    @property
    def total_parallel_agents(self) -> int:
        """Number of agents, one an environment."""
        return self._batch_info.num_envs

    @property
    def batch_info(self) -> EnvironmentCount:
        """``batch_info.num_envs``: environments in the one slice."""
        return self._batch_info

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
        """``"same_step"`` or ``"next_step"``."""
        return self._autoreset

    @property
    def vectorization(self) -> str:
        """``"vector_entry_point"``, ``"sync"``, ``"async"``, or ``"given"`` after ``from_vector_env``."""
        return self._vectorization

    @property
    def vector_env(self) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
        """The Gymnasium environment behind; stepping it directly breaks the statistics."""
        return self._env  # type: ignore[no-any-return]

    def reset(self, *, seed: int | None = None) -> None:
        """Drops the running episodes and starts fresh ones.

        Args:
            seed: as in the constructor; None goes on from where the random generators stand.
        """
        self._check_open("reset")
        if seed is not None and int(seed) < 0:
            raise ValueError(f"GymnasiumEnvironment: seed must not be negative, got {seed}")
        if not self._settle():
            raise RuntimeError("reset: the environment's workers do not answer")
        observations, _ = self._env.reset(seed=None if seed is None else int(seed))
        np.copyto(self._observations, np.asarray(observations))
        self._rewards[:] = 0.0
        self._terminals[:] = False
        self._truncations[:] = False
        self._mask[:] = True
        self._num_steps = len(self._mask)
        self._statistics.reset()
        self._infos: list[dict[str, Any]] = []
        self._final_ids: Tensor | None = None

    def get_observations(self) -> StepBatch:
        """The newest step: ``(obs, rewards, terminals, truncations, infos, env_slice, mask, num_steps)``.

        Shapes and dtypes as in ``hotloop.envs.StepBatch``; the first call after a reset has rewards 0 and no
        dones. EnvironmentLostError where an environment's process has died.
        """
        self._check_open("get_observations")
        if self._pending is not None:
            self._step(self._pending)
            self._pending = None
        observations, rewards, terminals, truncations, mask = self._tensors
        n = self.total_parallel_agents
        return (
            observations,
            rewards,
            terminals,
            truncations,
            self._infos,
            slice(0, n),
            mask,
            self._num_steps,
        )

    def peek_observations(self) -> Iterator[StepBatch]:
        """The one step that ``get_observations`` will return."""
        yield self.get_observations()

    def send_actions(self, actions: npt.NDArray[Any]) -> None:
        """Sends one action per environment: integers [n] or [n, k], or reals [n, k] for a Box space.

        Discrete choices count from 0, whatever the space's ``start``.

        Raises:
            TypeError, ValueError: wrong dtype or shape, a choice out of range, NaN.
            RuntimeError: called twice without ``get_observations`` in between, or after ``close``.
            EnvironmentLostError: an environment's process has died.
        """
        self._check_open("send_actions")
        if self._pending is not None:
            raise RuntimeError(
                "send_actions: the previous actions are still pending; call get_observations first"
            )
        pending = self._convert(np.asarray(actions))
        if self._is_async:
            with self._workers("send_actions"):
                self._env.step_async(pending)
        self._pending = pending

    def final_observations(self) -> tuple[Tensor, Tensor] | None:
        """``(agent_ids int64 [m], observations [m, ...])`` of the episodes that the newest step truncated.

        None when there are none, and always under NEXT_STEP. Both hold until the next step is fetched.
        """
        if self._final_ids is None:
            return None
        return self._final_ids, self._final_tensor[: len(self._final_ids)]

    def _step(self, actions: npt.NDArray[Any]) -> None:
        if self._is_async:
            with self._workers("get_observations"):
                result = self._env.step_wait()
        else:
            result = self._env.step(actions)
        observations, rewards, terminals, truncations, infos = result
        finished, self._num_steps, truncated = self._books.take(observations, rewards, terminals, truncations)
        if self._autoreset == "same_step":
            self._final_ids = None
            if truncated:
                self._keep_final(infos)
        self._infos = recorded(infos) if self._reads_recorded else finished

    def _keep_final(self, infos: Mapping[str, Any]) -> None:
        agents = np.flatnonzero(self._truncations)
        finals = infos.get("final_obs")
        if finals is None or any(finals[agent] is None for agent in agents):
            raise RuntimeError(
                f"get_observations: {self._env} has SAME_STEP autoreset and truncated an episode without"
                " putting its last observation into infos['final_obs']"
            )
        for row, agent in enumerate(agents):
            self._final[row] = finals[agent]
        self._final_ids = torch.from_numpy(agents.astype(np.int64, copy=False))

    @property
    def can_save_state(self) -> bool:
        """Whether ``state_dict`` and ``load_state_dict`` work for this environment."""
        return self.why_unsavable is None

    @property
    def why_unsavable(self) -> str | None:
        """The reason why ``can_save_state`` is False, for people; None when it is True."""
        return snapshot.why_unsavable(self._env)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the future, the actions sent last included.

        Made of tensors and builtins, so that ``torch.load(weights_only=True)`` reads it.

        Raises:
            RuntimeError: ``can_save_state`` is False.
        """
        self._check_open("state_dict")
        reason = self.why_unsavable
        if reason is not None:
            raise RuntimeError(f"state_dict: the state of {self._env} cannot be saved: {reason}")
        final = self.final_observations()
        return {
            "version": _STATE_VERSION,
            **self._identity(),
            "env": snapshot.capture(self._env),
            "pending": snapshot.pack(self._pending),
            "step": [tensor.clone() for tensor in self._tensors],
            "infos": [dict(info) for info in self._infos],
            "final": None if final is None else [tensor.clone() for tensor in final],
            "episode_returns": snapshot.pack(self._statistics.returns),
            "episode_lengths": snapshot.pack(self._statistics.lengths),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from ``state_dict()`` of an instance that was built with the same arguments.

        Raises:
            ValueError: the state is of another environment, number of environments, vectorisation or
                autoreset mode.
            RuntimeError: ``can_save_state`` is False.
        """
        self._check_open("load_state_dict")
        reason = self.why_unsavable
        if reason is not None:
            raise RuntimeError(f"load_state_dict: the state of {self._env} cannot be restored: {reason}")
        for key, have in {"version": _STATE_VERSION, **self._identity()}.items():
            if state.get(key) != have:
                raise ValueError(
                    f"load_state_dict: {key} of the state is {state.get(key)!r}, of the environment {have!r}"
                )
        snapshot.restore(self._env, state["env"])
        self._pending = snapshot.unpack(state["pending"])
        for tensor, saved in zip(self._tensors, state["step"], strict=True):
            tensor.copy_(saved)
        self._num_steps = int(np.count_nonzero(self._mask))
        self._infos = [dict(info) for info in state["infos"]]
        self._final_ids = None
        if state["final"] is not None:
            self._final_ids = state["final"][0].clone()
            self._final_tensor[: len(self._final_ids)] = state["final"][1]
        self._statistics.returns[:] = snapshot.unpack(state["episode_returns"])
        self._statistics.lengths[:] = snapshot.unpack(state["episode_lengths"])

    def _identity(self) -> dict[str, Any]:
        spec = self._env.spec
        return {
            "env_id": type(self._env).__name__ if spec is None else spec.id,
            "num_envs": self.total_parallel_agents,
            "vectorization": self._vectorization,
            "autoreset": self._autoreset,
        }

    def close(self) -> None:
        """Ends the environments, and their processes where there are any."""
        if not self._closed:
            # Workers that do not answer, or died, cannot be asked to stop.
            options = {} if self._settle() else {"terminate": True}
            self._closed = True
            self._env.close(**options)

    def _settle(self) -> bool:
        """Waits for workers that are stepping; False if that failed.

        A rollout usually ends with its last actions under way.
        """
        settled = not self._lost
        if self._is_async and self._pending is not None and settled:
            try:
                self._env.step_wait(timeout=_SETTLE_SECONDS)
            except Exception:
                settled = False  # whatever went wrong in a worker is moot now: its episode is being dropped
        self._pending = None
        return settled

    @contextmanager
    def _workers(self, what: str) -> Iterator[None]:
        """Around a talk with the environments' processes: says which has died."""
        try:
            yield
        except (EOFError, ConnectionError) as error:
            self._lost = True
            where = f"GymnasiumEnvironment.{what}"
            raise lost(where, getattr(self._env, "processes", ()), error) from error

    def _check_open(self, what: str) -> None:
        if self._closed:
            raise RuntimeError(f"{what}: the environment is closed")

    def __enter__(self) -> GymnasiumEnvironment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        how = f"vectorization={self._vectorization!r}, autoreset={self._autoreset!r}"
        return f"GymnasiumEnvironment({self._env}, {how})"

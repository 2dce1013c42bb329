"""PufferLib's vectorised environments (Suarez 2024), and whatever has their ``recv`` and ``send``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hotloop.envs.actions import ActionBounds, converter_of
from hotloop.envs.processes import ProcessWatch
from hotloop.envs.protocol import AutoresetMode, EnvironmentCount, StepBatch, TeacherStepBatch
from hotloop.envs.statistics import EpisodeStatistics

PufferAutoreset: TypeAlias = Literal["auto", "next_step", "none"]

_WHERE = "PufferEnvironment"


class PufferEnvironment:
    """Serves a PufferLib vecenv to a training loop, and owns it from now on.

    Nothing of PufferLib is imported: a vecenv is any object with

    - ``async_reset(seed)``, ``send(actions)`` and ``recv()``, which returns ``(observations, rewards,
      terminals, truncations, infos, env_ids, masks)``, or the same with teacher actions after
      ``truncations``;
    - ``single_observation_space``, ``single_action_space`` and ``num_agents``;
    - where they differ, ``agents_per_batch`` (agents in a ``recv``), and ``driver_env`` (one environment).

    ``recv`` decides which agents a step is of: any contiguous range, in any order, such as the workers of
    ``pufferlib.vector.Multiprocessing`` that were ready first. A step is copied out of the memory that
    workers go on writing to. An absent agent (``masks`` False) comes with ``mask`` False, and of what it
    reports only the end of the episode that it was in counts.

    How episodes restart (see ``hotloop.envs.ReportsAutoreset``) depends on the environments. PufferLib's
    emulation of Gymnasium and PettingZoo hands out the final observation together with the flag and resets in
    the step after, whatever the action: ``"next_step"``. Native environments restart within the step and keep
    the final observation to themselves: ``autoreset`` is None, and the loop, which says so once, cannot
    bootstrap the episodes that they truncate.

    ``peek_observations`` is there where a step is of all agents. PufferLib hands out no second slice before
    the first was sent actions, so with several slices the loop cannot look at what the last actions of a
    rollout led to, and says so once. Its state cannot be saved: a resumed run starts fresh episodes.

    Args:
        vecenv: see above.
        seed: handed to ``async_reset``. PufferLib seeds environment j of worker i with ``seed + i + j``, so
            with several environments a worker some start alike.
        autoreset: ``"auto"`` is ``"next_step"`` where ``vecenv.driver_env.emulated`` is true, else
            ``"none"``.
        action_bounds: as in ``GymnasiumEnvironment``.
        teacher_actions: hand on the teacher's actions (one discrete action per agent).

    Raises:
        TypeError: ``vecenv`` lacks a member, or its spaces are of a kind that cannot be served.
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        vecenv: Any,
        *,
        seed: int,
        autoreset: PufferAutoreset = "auto",
        action_bounds: ActionBounds = "clip",
        teacher_actions: bool = False,
    ) -> None:
        members = (
            "async_reset",
            "send",
            "recv",
            "single_observation_space",
            "single_action_space",
            "num_agents",
        )
        missing = [name for name in members if not hasattr(vecenv, name)]
        if missing:
            raise TypeError(f"{_WHERE}: vecenv must have {', '.join(missing)}, got {type(vecenv).__name__}")
        if autoreset not in ("auto", "next_step", "none"):
            raise ValueError(f"{_WHERE}: autoreset must be 'auto', 'next_step' or 'none', got {autoreset!r}")
        if seed < 0:
            raise ValueError(f"{_WHERE}: seed must not be negative, got {seed}")
        self._vecenv = vecenv
        driver = getattr(vecenv, "driver_env", None)
        self._next_step = autoreset == "next_step" or (
            autoreset == "auto" and bool(getattr(driver, "emulated", False))
        )
        self._teacher = teacher_actions
        total = int(vecenv.num_agents)
        batch = int(getattr(vecenv, "agents_per_batch", total))
        space = vecenv.single_observation_space
        if getattr(space, "shape", None) is None or getattr(space, "dtype", None) is None:
            raise TypeError(f"{_WHERE}: observation space must be a Box, got {space}")
        self._observation_space = space
        self._action_space, self._convert = converter_of(vecenv.single_action_space, batch, action_bounds)
        self._batch = batch
        self._batch_info = EnvironmentCount(max(1, batch // int(getattr(driver, "num_agents", 1))))
        self._total = total

        self._observations = np.zeros((total, *space.shape), dtype=space.dtype)
        self._rewards = np.zeros(total, dtype=np.float32)
        self._terminals = np.zeros(total, dtype=np.bool_)
        self._truncations = np.zeros(total, dtype=np.bool_)
        self._teacher_actions = np.zeros(total, dtype=np.int64)
        self._mask = np.zeros(total, dtype=np.bool_)
        self._over = np.zeros(total, dtype=np.bool_)  # the newest row ended the agent's episode
        self._statistics = EpisodeStatistics(total)
        self._served: dict[tuple[int, int], _Window] = {}
        self._newest: tuple[_Window, list[dict[str, Any]]] | None = None
        self._closed = False
        # PufferLib's workers are waited for by looking at shared memory, for ever where one has died.
        processes = getattr(vecenv, "processes", None)
        self._watch = ProcessWatch(processes) if processes else None
        if batch == total:
            self.peek_observations: Callable[[], Iterator[StepBatch | TeacherStepBatch]] = self._peek
        vecenv.async_reset(seed)

    @property
    def total_parallel_agents(self) -> int:
        """Agents over all slices."""
        return self._total

    @property
    def batch_info(self) -> EnvironmentCount:
        """``batch_info.num_envs``: environments in one step."""
        return self._batch_info

    @property
    def single_observation_space(self) -> Any:
        """Observation space of one agent."""
        return self._observation_space

    @property
    def single_action_space(self) -> Any:
        """What ``send_actions`` takes for one agent: its own space, or [-1, 1] when scaling."""
        return self._action_space

    @property
    def vecenv(self) -> Any:
        """The vecenv behind; stepping it directly breaks the statistics."""
        return self._vecenv

    @property
    def autoreset(self) -> AutoresetMode | None:
        """``"next_step"``, or None where final observations are not to be had."""
        return "next_step" if self._next_step else None

    def final_observations(self) -> None:
        """None: the final observation is in the row itself, or nowhere."""
        return None

    def get_observations(self) -> StepBatch | TeacherStepBatch:
        """The newest step of the agents that are ready; waits for some. See ``StepBatch``.

        Calling it again before ``send_actions`` returns the same step.

        Raises:
            ValueError: what ``recv`` returned is not a step of a contiguous range of agents.
            EnvironmentLostError: a worker process has died.
        """
        self._check_open("get_observations")
        if self._newest is None:
            self._newest = self._receive()
        served, infos = self._newest
        observations, rewards, terminals, truncations, teacher, mask = served.tensors
        steps = int(np.count_nonzero(self._mask[served.window]))
        if self._teacher:
            return observations, rewards, terminals, truncations, teacher, infos, served.window, mask, steps
        return observations, rewards, terminals, truncations, infos, served.window, mask, steps

    def _peek(self) -> Iterator[StepBatch | TeacherStepBatch]:
        """The one step that ``get_observations`` will return."""
        yield self.get_observations()

    def send_actions(self, actions: npt.NDArray[Any]) -> None:
        """Sends actions, [n] or [n, k], to the agents served last.

        Raises:
            TypeError, ValueError: as ``GymnasiumEnvironment.send_actions``.
            RuntimeError: called without ``get_observations`` before it, or after ``close``.
        """
        self._check_open("send_actions")
        if self._newest is None:
            raise RuntimeError("send_actions: there is no step to answer; call get_observations first")
        converted = self._convert(np.asarray(actions))
        # PufferLib's buffers of discrete actions are int32, whatever the space says.
        self._vecenv.send(converted.astype(np.int32) if converted.dtype.kind in "iu" else converted)
        self._newest = None

    def close(self) -> None:
        """Closes the vecenv. May be called twice."""
        if not self._closed:
            self._closed = True
            if self._watch is not None:
                self._watch.close()
            close = getattr(self._vecenv, "close", None)
            if callable(close):
                close()

    def _receive(self) -> tuple[_Window, list[dict[str, Any]]]:
        if self._watch is None:
            step = self._vecenv.recv()
        else:
            with self._watch.waiting(f"{_WHERE}.get_observations"):
                step = self._vecenv.recv()
        if len(step) == 8:
            observations, rewards, terminals, truncations, teacher, _, env_ids, masks = step
        elif len(step) == 7:
            observations, rewards, terminals, truncations, _, env_ids, masks = step
            teacher = None
        else:
            raise ValueError(f"{_WHERE}: recv() must return 7 or 8 entries, got {len(step)}")
        if self._teacher and teacher is None:
            raise ValueError(f"{_WHERE}: teacher_actions=True, but recv() returned none")
        served = self._window(env_ids)
        window = served.window
        observations = np.asarray(observations)
        expected = self._observations[window].shape
        if observations.shape != expected:
            raise ValueError(
                f"{_WHERE}: observations must be {list(expected)} for the agents {window.start} to "
                f"{window.stop}, got {list(observations.shape)}"
            )
        self._observations[window] = observations
        self._rewards[window] = rewards
        if teacher is not None and self._teacher:
            self._teacher_actions[window] = np.asarray(teacher).reshape(self._batch)
        present = np.asarray(masks, dtype=np.bool_).reshape(self._batch)
        acted = self._mask[window]  # still that of the rows the actions were sent from
        # An agent that is away reports the end of an episode again and again.
        news = acted & ~(self._over[window] & ~present)
        ended, cut = self._terminals[window], self._truncations[window]
        np.logical_and(np.asarray(terminals, dtype=np.bool_), news, out=ended)
        np.logical_and(np.asarray(truncations, dtype=np.bool_), news, out=cut)
        over = ended | cut
        infos = served.statistics.update(self._rewards[window], over, news)
        for info in infos:
            info["agent_id"] += window.start
        self._over[window] = over
        self._mask[window] = present & ~over if self._next_step else present
        return served, infos

    def _window(self, env_ids: Any) -> _Window:
        if isinstance(env_ids, slice):
            start, stop, step = env_ids.indices(self._total)
            contiguous = step == 1
        else:
            ids = np.asarray(env_ids).reshape(-1)
            start = int(ids[0]) if len(ids) else 0
            stop = start + len(ids)
            contiguous = bool(len(ids)) and bool((ids == np.arange(start, stop)).all())
        if not contiguous or stop - start != self._batch or not 0 <= start <= stop <= self._total:
            raise ValueError(
                f"{_WHERE}: recv() must serve {self._batch} neighbouring agents of {self._total}, got "
                f"{env_ids}; pufferlib.vector.Multiprocessing does with zero_copy=True"
            )
        known = self._served.get((start, stop))
        if known is None:
            known = self._served[start, stop] = _Window(self, slice(start, stop))
        return known

    def _check_open(self, what: str) -> None:
        if self._closed:
            raise RuntimeError(f"{what}: the environment is closed")

    def __repr__(self) -> str:
        kind = type(self._vecenv).__name__
        return f"PufferEnvironment({kind}, {self._total} agents, {self._batch} a step, {self.autoreset!r})"


class _Window:
    """A range of agents that is served together: views of the environment's memory, made once."""

    def __init__(self, env: PufferEnvironment, window: slice) -> None:
        self.window = window
        self.statistics = env._statistics.part(window)
        buffers = (
            env._observations,
            env._rewards,
            env._terminals,
            env._truncations,
            env._teacher_actions,
            env._mask,
        )
        self.tensors: tuple[Tensor, ...] = tuple(torch.from_numpy(buffer[window]) for buffer in buffers)

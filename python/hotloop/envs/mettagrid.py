"""MettaGrid arenas (Metta AI): many agents each, token observations, written straight into our buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hotloop.envs.actions import DiscreteActions
from hotloop.envs.mettagrid_arenas import arena_config
from hotloop.envs.protocol import AutoresetMode, EnvironmentCount, StepBatch
from hotloop.envs.statistics import EpisodeStatistics

try:
    from mettagrid.map_builder.map_builder import HasSeed
    from mettagrid.policy.policy_env_interface import PolicyEnvInterface
    from mettagrid.simulator import Simulation
    from mettagrid.simulator.simulator import Buffers
except ImportError as error:
    raise ImportError(
        f"hotloop.envs.MettaGridEnvironment needs mettagrid ({error}): pip install 'hotloop[mettagrid]'"
        " (there are wheels for Python 3.11 and 3.12)"
    ) from error


class MettaGridEnvironment:
    """Serves several arenas of MettaGrid to a training loop, all agents of all arenas in one slice.

    Observations are tokens, uint8 ``[tokens, 3]``: location (row and column in four bits each, seen from the
    agent; 0xFE for what has no place), feature id, value; 0xFF fills the rest. The simulators write them,
    the rewards and the flags into this object's own memory (``set_buffers``); they hold the interpreter's
    lock while they step, so arenas are stepped in turn.

    Restarts are ``"same_step"``: when every agent of an arena is done, a new simulation with a new seed and,
    unless the configuration fixes one, a new map takes its place within the step, and the last observations
    of truncated agents are handed out by ``final_observations``. An agent that is done before its arena is
    (the built-in arenas end for all at once) waits with ``mask`` False. The simulators' state cannot be
    saved: a resumed run starts fresh episodes.

    Args:
        env_id: which arena, see ``mettagrid_arenas.arena_config``: ``"hearts"``, ``"arena"``,
            ``"navigation"``, ``"module:function"``, a YAML or JSON file, or a ``MettaGridConfig``.
        num_arenas: arenas side by side.
        seed: non-negative; the k-th simulation made here, of whichever arena, has ``seed + k``.
        tokens: tokens of an observation, instead of the configuration's ``game.obs.num_tokens`` (500 by
            default). Fewer cut what the simulator writes, which leaves out the farthest cells; more widen
            it. A simulator that sees more than its own number of tokens raises an error.
        max_steps: length of an episode, instead of the configuration's; 0 for no limit.
        changes: further settings, as ``arena_config`` takes them.

    Raises:
        TypeError: a function that returns no configuration.
        ValueError: an unknown arena, a setting that it does not have, or an argument out of range.
    """

    def __init__(
        self,
        env_id: Any = "hearts",
        num_arenas: int = 4,
        *,
        seed: int,
        tokens: int | None = None,
        max_steps: int | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        _check("num_arenas", num_arenas, 1)
        _check("seed", seed, 0)
        given = dict(changes or {})
        if tokens is not None:
            _check("tokens", tokens, 1)
        if max_steps is not None:
            _check("max_steps", max_steps, 0)
            given["max_steps"] = max_steps
        self._config = arena_config(env_id, given)
        widest = int(self._config.game.obs.num_tokens)
        if tokens is not None and tokens > widest:
            self._config = arena_config(self._config, {"game.obs.num_tokens": tokens})
        self._tokens = widest if tokens is None else tokens
        self._label = str(self._config.label)
        interface = PolicyEnvInterface.from_mg_cfg(self._config)
        self._agents = int(interface.num_agents)
        self._next_seed = int(seed)
        n = num_arenas * self._agents
        self._observation_space = _cut(interface.observation_space, self._tokens)
        self._action_space = interface.action_space
        self._convert = DiscreteActions(interface.action_space.n, 0, np.int32, n)
        self._batch_info = EnvironmentCount(num_arenas)
        self._statistics = EpisodeStatistics(n)

        # What the simulators write; a restart clears rewards and flags, so that those handed out are copies.
        raw = np.zeros((n, *interface.observation_space.shape), dtype=np.uint8)
        self._raw_observations = raw
        self._observations = raw if raw.shape[1] == self._tokens else np.zeros((n, self._tokens, 3), np.uint8)
        self._raw_rewards = np.zeros(n, dtype=np.float32)
        self._raw_terminals = np.zeros(n, dtype=np.bool_)
        self._raw_truncations = np.zeros(n, dtype=np.bool_)
        self._actions = np.zeros(n, dtype=np.int32)
        self._unused = np.zeros(n, dtype=np.int32)
        self._rewards = np.zeros(n, dtype=np.float32)
        self._terminals = np.zeros(n, dtype=np.bool_)
        self._truncations = np.zeros(n, dtype=np.bool_)
        self._mask = np.ones(n, dtype=np.bool_)
        self._final = np.zeros_like(self._observations)
        self._final_ids: Tensor | None = None
        buffers = (self._observations, self._rewards, self._terminals, self._truncations, self._mask)
        self._tensors: tuple[Tensor, ...] = tuple(map(torch.from_numpy, buffers))
        self._final_tensor = torch.from_numpy(self._final)
        self._infos: list[dict[str, Any]] = []
        self._window = slice(0, n)
        self._pending: npt.NDArray[Any] | None = None
        self._closed = False
        self._simulations = [self._start(arena) for arena in range(num_arenas)]
        self._show()
        ids = self._simulations[0].action_ids
        self._action_ids = np.array([ids[name] for name in interface.action_names], dtype=np.int32)

    @property
    def total_parallel_agents(self) -> int:
        """Agents over all arenas."""
        return self._window.stop

    @property
    def agents_per_arena(self) -> int:
        """Agents of one arena."""
        return self._agents

    @property
    def batch_info(self) -> EnvironmentCount:
        """``batch_info.num_envs``: arenas in the one slice."""
        return self._batch_info

    @property
    def single_observation_space(self) -> Any:
        """Box of uint8 ``[tokens, 3]``."""
        return self._observation_space

    @property
    def single_action_space(self) -> Any:
        """Discrete: the configuration's actions, vibes excepted."""
        return self._action_space

    @property
    def config(self) -> Any:
        """The ``MettaGridConfig`` of every arena; a copy, with the changes made."""
        return self._config

    @property
    def autoreset(self) -> AutoresetMode:
        """``"same_step"``."""
        return "same_step"

    @property
    def can_save_state(self) -> bool:
        """False."""
        return False

    @property
    def why_unsavable(self) -> str:
        """For people."""
        return "the state of a MettaGrid simulator cannot be read out"

    def final_observations(self) -> tuple[Tensor, Tensor] | None:
        """``(agent_ids int64 [m], observations [m, tokens, 3])`` of the agents truncated by the newest step.

        None when there are none.
        """
        if self._final_ids is None:
            return None
        return self._final_ids, self._final_tensor[: len(self._final_ids)]

    def get_observations(self) -> StepBatch:
        """Steps all arenas with the actions sent last and returns the result. See ``StepBatch``.

        Calling it again before ``send_actions`` returns the same step.
        """
        self._check_open("get_observations")
        if self._pending is not None:
            actions, self._pending = self._pending, None
            self._step(actions)
        observations, rewards, terminals, truncations, mask = self._tensors
        steps = int(np.count_nonzero(self._mask))
        return observations, rewards, terminals, truncations, self._infos, self._window, mask, steps

    def peek_observations(self) -> Iterator[StepBatch]:
        """The one step that ``get_observations`` will return."""
        yield self.get_observations()

    def send_actions(self, actions: npt.NDArray[Any]) -> None:
        """Takes one action per agent, integers [n] or [n, 1]; the step is made by ``get_observations``.

        Raises:
            TypeError, ValueError: wrong dtype or shape, or an action out of range.
            RuntimeError: called twice without ``get_observations`` in between, or after ``close``.
        """
        self._check_open("send_actions")
        if self._pending is not None:
            raise RuntimeError(
                "send_actions: the previous actions are still pending; call get_observations first"
            )
        self._pending = self._convert(np.asarray(actions))

    def close(self) -> None:
        """Ends the simulations. May be called twice."""
        if not self._closed:
            self._closed = True
            for simulation in self._simulations:
                simulation.close()
            self._simulations = []

    def _step(self, actions: npt.NDArray[Any]) -> None:
        np.take(self._action_ids, actions, out=self._actions)
        for simulation in self._simulations:
            simulation.step()
        self._rewards[:] = self._raw_rewards
        acted = self._mask.copy()
        # Of an agent that has been waiting since an earlier step, the flags are old news.
        np.logical_and(self._raw_terminals, acted, out=self._terminals)
        np.logical_and(self._raw_truncations, acted, out=self._truncations)
        self._rewards[~acted] = 0.0
        self._final_ids = None
        over = self._raw_terminals | self._raw_truncations
        if not over.any():
            self._infos = self._statistics.update(self._rewards, over, acted)
            self._show()
            return
        dones = self._terminals | self._truncations
        self._infos = self._statistics.update(self._rewards, dones, acted)
        self._keep_final()
        np.logical_not(over, out=self._mask)
        arenas_over = np.logical_and.reduce(over.reshape(-1, self._agents), axis=1)
        for arena in np.flatnonzero(arenas_over).tolist():
            self._simulations[arena].close()
            self._simulations[arena] = self._start(arena)
            self._mask[self._rows(arena)] = True
        self._show()

    def _show(self) -> None:
        """What the simulators wrote, cut."""
        if self._observations is not self._raw_observations:
            np.copyto(self._observations, self._raw_observations[:, : self._tokens])

    def _keep_final(self) -> None:
        agents = np.flatnonzero(self._truncations)
        if len(agents):
            self._final[: len(agents)] = self._raw_observations[agents, : self._tokens]
            self._final_ids = torch.from_numpy(agents.astype(np.int64, copy=False))

    def _rows(self, arena: int) -> slice:
        return slice(arena * self._agents, (arena + 1) * self._agents)

    def _start(self, arena: int) -> Any:
        rows, seed = self._rows(arena), self._next_seed
        self._next_seed += 1
        config = self._config
        builder = config.game.map_builder
        if isinstance(builder, HasSeed) and builder.seed is None:
            # Shallow copies: the configuration is large, and nothing else of it changes.
            game = config.game.model_copy(update={"map_builder": builder.model_copy(update={"seed": seed})})
            config = config.model_copy(update={"game": game})
        # The memory's former episode: nothing promises that a simulator clears all of it.
        for flags in (self._raw_rewards, self._raw_terminals, self._raw_truncations):
            flags[rows] = 0
        buffers = Buffers(
            observations=self._raw_observations[rows],
            terminals=self._raw_terminals[rows],
            truncations=self._raw_truncations[rows],
            rewards=self._raw_rewards[rows],
            masks=np.ones(self._agents, dtype=np.bool_),
            actions=self._actions[rows],
            teacher_actions=self._unused[rows],
            vibe_actions=self._unused[rows],
        )
        return Simulation(config, seed=seed, buffers=buffers)

    def _check_open(self, what: str) -> None:
        if self._closed:
            raise RuntimeError(f"{what}: the environment is closed")

    def __repr__(self) -> str:
        arenas, agents = self._batch_info.num_envs, self._agents
        return f"MettaGridEnvironment({self._label!r}, {arenas} arenas of {agents} agents)"


def _cut(space: Any, tokens: int) -> Any:
    """A space of the same kind, of as many tokens."""
    return space if space.shape[0] == tokens else type(space)(0, 255, (tokens, 3), np.uint8)


def _check(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"MettaGridEnvironment: {name} must be an int of at least {least}, got {value!r}")

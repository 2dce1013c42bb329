"""A memory task: what was shown at the first step of an episode must be said at its last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hotloop.envs.protocol import AutoresetMode, StepBatch
from hotloop.envs.statistics import EpisodeStatistics


@dataclass(frozen=True)
class Choices:
    """A discrete space: 0 ... n - 1."""

    n: int
    shape: tuple[int, ...] = ()
    dtype: str = "int64"


@dataclass(frozen=True)
class Vector:
    """A space of float32 vectors."""

    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class _Sizes:
    num_envs: int


class RecallEnvironment:
    """Episodes of a cue, a delay and a question, for many agents at once.

    The first observation of an episode shows one of `cues` cues, one-hot in the first `cues` components.
    Then come steps that show zeros, and as many steps after the cue as the delay is long the last component
    is 1: the action chosen there earns reward 1 if it names the cue and 0 otherwise, and the episode ends.
    Other actions change nothing. An observation at the question says nothing about the cue, so the best
    policy without memory earns ``1 / cues`` a episode, and one with memory 1.

    Parameters
    ----------
    num_agents
        Agents that are stepped together.
    cues
        Number of cues, and of actions.
    delay
        Steps from the cue to the question, at least 1: one number, or the least and the greatest of those
        that each episode draws from uniformly.
    seed
        Seed of cues and delays.
    autoreset
        How episodes go on; see `hotloop.envs.ReportsAutoreset`.

    Implements `hotloop.envs.TrainingEnvironment`, `ReportsAutoreset` and `SavesState`. Raises ValueError for
    numbers out of range.
    """

    can_save_state = True

    def __init__(
        self,
        num_agents: int,
        *,
        cues: int = 4,
        delay: int | tuple[int, int] = 8,
        seed: int = 0,
        autoreset: AutoresetMode = "same_step",
    ) -> None:
        least, most = (delay, delay) if isinstance(delay, int) else delay
        if num_agents < 1 or cues < 2 or not 1 <= least <= most:
            raise ValueError(
                "RecallEnvironment: expected num_agents >= 1, cues >= 2 and 1 <= delay, got "
                f"{num_agents}, {cues} and {delay}"
            )
        if autoreset not in ("same_step", "next_step"):
            raise ValueError(
                f"RecallEnvironment: autoreset must be 'same_step' or 'next_step', got {autoreset!r}"
            )
        self.cues = cues
        self.autoreset = autoreset
        self.total_parallel_agents = num_agents
        self.batch_info = _Sizes(num_agents)
        self.single_action_space = Choices(cues)
        self.single_observation_space = Vector((cues + 1,))
        self._delays = (least, most)
        self._random = np.random.default_rng(seed)
        self._statistics = EpisodeStatistics(num_agents)
        self._cue = np.zeros(num_agents, dtype=np.int64)
        self._left = np.zeros(num_agents, dtype=np.int64)  # steps to the question
        self._observations = torch.zeros(num_agents, cues + 1)
        self._rewards = torch.zeros(num_agents)
        self._dones = torch.zeros(num_agents, dtype=torch.bool)
        self._truncations = torch.zeros(num_agents, dtype=torch.bool)
        self._mask = torch.ones(num_agents, dtype=torch.bool)
        self._infos: list[dict[str, Any]] = []
        self._begin(np.ones(num_agents, dtype=np.bool_))

    def _begin(self, agents: npt.NDArray[np.bool_]) -> None:
        """New episodes, which show their cues."""
        # Drawn for all, so that what an agent gets does not depend on the others' episodes.
        cues = self._random.integers(self.cues, size=len(agents))
        delays = self._random.integers(self._delays[0], self._delays[1] + 1, size=len(agents))
        self._cue[agents] = cues[agents]
        self._left[agents] = delays[agents]
        shown = self._observations.numpy()
        shown[agents] = 0.0
        shown[agents, self._cue[agents]] = 1.0

    def peek_observations(self) -> Iterator[StepBatch]:
        """The one step that ``get_observations`` will return."""
        yield self._step(list(self._infos))

    def get_observations(self) -> StepBatch:
        """The newest step of all agents."""
        infos, self._infos = self._infos, []
        return self._step(infos)

    def _step(self, infos: list[dict[str, Any]]) -> StepBatch:
        return (
            self._observations,
            self._rewards,
            self._dones,
            self._truncations,
            infos,
            slice(0, self.total_parallel_agents),
            self._mask,
            int(self._mask.sum()),
        )

    def send_actions(self, actions: npt.NDArray[Any]) -> None:
        """One action for each agent, ``[n]`` or ``[n, 1]``. ValueError for another number of them."""
        count = self.total_parallel_agents
        if actions.size != count:
            raise ValueError(
                f"RecallEnvironment.send_actions: actions must be [{count}], got {list(actions.shape)}"
            )
        acting = self._mask.numpy().copy()  # all but those whose episode is over
        asked = acting & (self._left == 0)
        rewards = (asked & (actions.reshape(count) == self._cue)).astype(np.float32)
        self._infos = self._statistics.update(rewards, asked, acting)
        self._rewards.numpy()[:] = rewards
        self._dones.numpy()[:] = asked
        self._left[acting] -= 1
        shown = self._observations.numpy()
        shown[acting] = 0.0
        shown[acting & (self._left == 0), self.cues] = 1.0
        if self.autoreset == "same_step":
            self._begin(asked)
        else:
            self._mask.numpy()[:] = ~asked
            self._begin(~acting)

    def final_observations(self) -> None:
        """None: no episode is truncated."""
        return None

    def close(self) -> None:
        """Nothing to release."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the future."""
        return {
            "random": self._random.bit_generator.state,
            "cue": torch.from_numpy(self._cue.copy()),
            "left": torch.from_numpy(self._left.copy()),
            "returns": torch.from_numpy(self._statistics.returns.copy()),
            "lengths": torch.from_numpy(self._statistics.lengths.copy()),
            "infos": list(self._infos),
            **{name: tensor.clone() for name, tensor in self._tensors().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` of an equally built environment returned. ValueError for another
        number of agents or cues."""
        if state["observations"].shape != self._observations.shape:
            raise ValueError(
                f"RecallEnvironment.load_state_dict: observations must be {list(self._observations.shape)}, "
                f"got {list(state['observations'].shape)}"
            )
        self._random.bit_generator.state = state["random"]
        self._cue[:], self._left[:] = state["cue"].numpy(), state["left"].numpy()
        self._statistics.returns[:] = state["returns"].numpy()
        self._statistics.lengths[:] = state["lengths"].numpy()
        self._infos = list(state["infos"])
        for name, tensor in self._tensors().items():
            tensor.copy_(state[name])

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "observations": self._observations,
            "rewards": self._rewards,
            "dones": self._dones,
            "mask": self._mask,
        }

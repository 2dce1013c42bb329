"""What a training loop asks of an environment.

The shape of the interface is that of PufferLib's vectorised environments as Metta's trainer uses them: one
call hands out the newest step of a contiguous slice of agents, another sends that slice's actions. Time is
arrival-indexed: the reward and the flags returned together with an observation are the outcome of the action
*before* it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy.typing as npt
from torch import Tensor

AutoresetMode: TypeAlias = Literal["same_step", "next_step"]

StepBatch: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, list[dict[str, Any]], slice, Tensor, int]
"""``(obs, rewards, terminals, truncations, infos, env_slice, mask, num_steps)`` of the n agents served now.

obs          space's dtype [n, ...]: newest observation
rewards      float32 [n]: outcome of the previous action
terminals    bool [n]: the episode ended in a terminal state
truncations  bool [n]: the episode was cut short, by a time limit, say
infos        list of dicts, one per finished episode: ``episode_return`` (float), ``episode_length`` (int, in
             steps), ``agent_id`` (int)
env_slice    slice of step 1: the agents served
mask         bool [n]: False where the action sent next is ignored (a filler row)
num_steps    int: ``mask.sum()``, the environment steps that the next actions make
"""

TeacherStepBatch: TypeAlias = tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, list[dict[str, Any]], slice, Tensor, int
]
"""The same with a teacher's actions (int64 [n]) after ``truncations``."""


class BatchInfo(Protocol):
    """Sizes of the batches that an environment serves."""

    @property
    def num_envs(self) -> int:
        """How many environments one batch holds."""


@dataclass(frozen=True)
class EnvironmentCount:
    """A ``BatchInfo``."""

    num_envs: int


@runtime_checkable
class TrainingEnvironment(Protocol):
    """A batch of agents that a rollout can step.

    The tensors of a step alias the environment's own buffers: they hold until the next step is fetched, so
    copy what must live longer. The buffers are created once, which lets a loop keep pointers to them.
    """

    @property
    def total_parallel_agents(self) -> int:
        """Agents over all slices."""

    @property
    def batch_info(self) -> BatchInfo:
        """Sizes of the batches served."""

    @property
    def single_action_space(self) -> Any:
        """Action space of one agent (a Gymnasium space, or anything that looks like one)."""

    @property
    def single_observation_space(self) -> Any:
        """Observation space of one agent."""

    def get_observations(self) -> StepBatch | TeacherStepBatch:
        """The newest step of the slice that is to act next."""

    def send_actions(self, actions: npt.NDArray[Any]) -> None:
        """Sends actions, [n] or [n, k], to the slice that ``get_observations`` returned last."""

    def close(self) -> None:
        """Releases the environments. May be called twice."""


@runtime_checkable
class ReportsAutoreset(Protocol):
    """An environment that says how it restarts episodes, so that truncation can be bootstrapped correctly.

    Gymnasium 1.x has two ways to go on after the last step of an episode, and they differ in where the final
    observation is and in what the next action means:

    ``"same_step"``
        The observation that arrives with a done is the first of the next episode, and ``mask`` is always
        True. The final observation of a truncated episode comes from ``final_observations()``.
    ``"next_step"``
        The observation that arrives with a done *is* the final observation. The action sent there is ignored,
        so ``mask`` is False on that row; the next row is the first of the next episode, with reward 0.
    """

    @property
    def autoreset(self) -> AutoresetMode:
        """``"same_step"`` or ``"next_step"``."""

    def final_observations(self) -> tuple[Tensor, Tensor] | None:
        """``(agent_ids int64 [m], observations [m, ...])`` of the episodes that the newest step truncated.

        None when there are none, and always under ``"next_step"``, where the row's own observation is the
        final one.
        """


@runtime_checkable
class PeeksObservations(Protocol):
    """An environment that shows what its last actions led to before it is sent others.

    A training loop looks there at the end of a rollout: see `hotloop.CoreTrainingLoop`, ``boundary``.
    """

    def peek_observations(self) -> Iterator[StepBatch | TeacherStepBatch]:
        """The newest step of every slice, one after the other, best in the order of their turns.

        Nothing is stepped and no turn is taken: ``get_observations`` returns these very steps afterwards,
        infos included. Waits for a slice that is stepping. Until the next one is asked for,
        ``final_observations()`` speaks of the step returned last.
        """


@runtime_checkable
class SavesState(Protocol):
    """An environment that may be saved in the middle of its episodes and go on identically elsewhere."""

    @property
    def can_save_state(self) -> bool:
        """Whether ``state_dict`` works. Where it does not, resuming a run starts fresh episodes."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the future: tensors, lists, dicts, numbers and strings only."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` of an equally built environment returned."""

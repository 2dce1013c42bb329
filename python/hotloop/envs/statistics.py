"""Returns and lengths of episodes, accumulated for all agents at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hotloop import _core


class EpisodeStatistics:
    """Undiscounted return and length of every agent's running episode.

    Sums are float64, whatever the dtype of the rewards. Under Gymnasium's NEXT_STEP autoreset the step after
    a done
    only resets: it is neither an action of the old episode nor one of the new, so callers name it in
    ``counts``.

    Attributes:
        returns: float64 [n], return of the running episode so far.
        lengths: int64 [n], its steps so far.
    """

    def __init__(self, num_agents: int) -> None:
        self.returns: npt.NDArray[np.float64] = np.zeros(num_agents, dtype=np.float64)
        self.lengths: npt.NDArray[np.int64] = np.zeros(num_agents, dtype=np.int64)

    def part(self, window: slice) -> EpisodeStatistics:
        """The statistics of some of the agents, over the same memory; ``agent_id`` counts from its start."""
        part = EpisodeStatistics(0)
        part.returns, part.lengths = self.returns[window], self.lengths[window]
        return part

    def reset(self) -> None:
        """Forgets the running episodes."""
        self.returns[:] = 0.0
        self.lengths[:] = 0

    def update(
        self,
        rewards: npt.NDArray[Any],
        dones: npt.NDArray[np.bool_],
        counts: npt.NDArray[np.bool_] | None = None,
    ) -> list[dict[str, Any]]:
        """Adds one step and returns the episodes that it ended.

        Args:
            rewards: [n], any real dtype: outcome of the step.
            dones: bool [n], terminated or truncated by the step.
            counts: bool [n], False where the step was a reset and took no action; None where all took one.

        Returns:
            One ``{"episode_return": float, "episode_length": int, "agent_id": int}`` per finished episode, by
            agent.
        """
        if counts is None:
            self.returns += rewards
            self.lengths += 1
        else:
            np.add(self.returns, rewards, out=self.returns, where=counts)
            self.lengths += counts
        if not dones.any():
            return []
        agents = np.flatnonzero(dones)
        finished = [
            {"episode_return": episode_return, "episode_length": episode_length, "agent_id": agent}
            for episode_return, episode_length, agent in zip(
                self.returns[agents].tolist(), self.lengths[agents].tolist(), agents.tolist(), strict=True
            )
        ]
        self.returns[agents] = 0.0
        self.lengths[agents] = 0
        return finished


class StepBooks:
    """An adapter's own arrays of the newest step, and its episodes, brought up to date in one native call.

    Args:
        observations, rewards, terminals, truncations, mask: what the adapter hands out, C-contiguous:
            [n, ...], float32 [n] and three times bool [n]. They are written where they are.
        statistics: of the same agents, kept up to date likewise.
        first_agent: added to ``agent_id``.
        next_step: whether ``mask`` is False, until the next step, where an episode has ended, and whether the
            step of a row with such a mask counts for no episode.
    """

    def __init__(
        self,
        observations: npt.NDArray[Any],
        rewards: npt.NDArray[np.float32],
        terminals: npt.NDArray[np.bool_],
        truncations: npt.NDArray[np.bool_],
        mask: npt.NDArray[np.bool_],
        statistics: EpisodeStatistics,
        *,
        first_agent: int = 0,
        next_step: bool,
    ) -> None:
        self._own = observations, rewards, terminals, truncations
        self._mask, self._statistics = mask, statistics
        self._first_agent, self._next_step = first_agent, next_step
        arrays = (*self._own, mask, statistics.returns, statistics.lengths)
        self._native = _core.StepBooks(arrays, first_agent, next_step)

    def take(
        self,
        observations: Any,
        rewards: npt.NDArray[Any],
        terminals: npt.NDArray[Any],
        truncations: npt.NDArray[Any],
    ) -> tuple[list[dict[str, Any]], int, bool]:
        """Takes in a step, arrays of any dtype and strides.

        Returns:
            The episodes that it ended, as ``EpisodeStatistics.update``; how many rows of the mask are True;
            and whether it truncated an episode.
        """
        taken = self._native.take(observations, rewards, terminals, truncations)
        return self._take(observations, rewards, terminals, truncations) if taken is None else taken

    def _take(
        self, observations: Any, rewards: Any, terminals: Any, truncations: Any
    ) -> tuple[list[dict[str, Any]], int, bool]:
        rewards = np.asarray(rewards)
        for own, given in zip(self._own, (observations, rewards, terminals, truncations), strict=True):
            own[...] = given
        dones = self._own[2] | self._own[3]
        # The mask still is that of the rows the actions were sent from: False where this step only reset.
        counts, over = (self._mask, dones & self._mask) if self._next_step else (None, dones)
        finished = self._statistics.update(rewards, over, counts)
        for episode in finished:
            episode["agent_id"] += self._first_agent
        if self._next_step:
            np.logical_not(dones, out=self._mask)
        return finished, int(np.count_nonzero(self._mask)), bool(self._own[3].any())


def recorded(infos: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The episodes that Gymnasium's ``RecordEpisodeStatistics`` put into the infos of a vector step.

    Args:
        infos: of a step; under SAME_STEP autoreset those of an episode's last step are in ``final_info``.

    Returns:
        As ``EpisodeStatistics.update``.
    """
    found = []
    for source in (infos.get("final_info"), infos):
        if not source or "episode" not in source:
            continue
        episodes, whose = source["episode"], source["_episode"]
        for agent in np.flatnonzero(whose).tolist():
            episode_return, length = float(episodes["r"][agent]), int(episodes["l"][agent])
            found.append({"episode_return": episode_return, "episode_length": length, "agent_id": agent})
    return found

"""Returns and lengths of episodes, accumulated for all agents at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


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

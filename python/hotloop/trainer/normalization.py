"""The normalisers that a run's settings describe."""

from __future__ import annotations

from typing import Any

from hotloop.losses import ranks
from hotloop.normalize import NormalizedEnvironment, ObservationNormalizer, RewardNormalizer
from hotloop.trainer.config import TrainConfig


def observation_normalizer(config: TrainConfig, environment: Any) -> ObservationNormalizer:
    """A fresh one for the observations of `environment`."""
    shape = tuple(environment.single_observation_space.shape)
    return ObservationNormalizer(shape, clip=config.normalize.clip_observations, gather=_gather())


def normalized(environment: Any, config: TrainConfig) -> Any:
    """`environment`, within a `NormalizedEnvironment` where the settings normalise anything."""
    settings = config.normalize
    if not (settings.observations or settings.rewards):
        return environment
    agents = int(environment.total_parallel_agents)
    rewards = RewardNormalizer(
        agents, gamma=config.advantage.gamma, clip=settings.clip_rewards, gather=_gather()
    )
    return NormalizedEnvironment(
        environment,
        observations=observation_normalizer(config, environment) if settings.observations else None,
        rewards=rewards if settings.rewards else None,
    )


def _gather() -> Any:
    """Several processes normalise by the statistics of all their environments."""
    return ranks.gathered if ranks.several_ranks() else None

"""Losses: the hooks that the loop calls, and PPO."""

from hotloop.losses.base import Loss, LossConfig
from hotloop.losses.ppo import ppo_losses
from hotloop.losses.ppo_actor import PPOActor, PPOActorConfig
from hotloop.losses.ppo_critic import PPOCritic, PPOCriticConfig
from hotloop.losses.statistics import StatisticTracker

__all__ = [
    "Loss",
    "LossConfig",
    "PPOActor",
    "PPOActorConfig",
    "PPOCritic",
    "PPOCriticConfig",
    "StatisticTracker",
    "ppo_losses",
]

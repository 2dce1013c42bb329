"""Losses: the hooks that the loop calls, and PPO."""

from hotloop.losses.base import Loss, LossConfig
from hotloop.losses.ppo import ppo_losses
from hotloop.losses.ppo_actor import PPOActor, PPOActorConfig
from hotloop.losses.ppo_critic import PPOCritic, PPOCriticConfig
from hotloop.losses.ppo_loss import PPOLoss, PPOLossConfig
from hotloop.losses.statistics import StatisticTracker

__all__ = [
    "Loss",
    "LossConfig",
    "PPOActor",
    "PPOActorConfig",
    "PPOCritic",
    "PPOCriticConfig",
    "PPOLoss",
    "PPOLossConfig",
    "StatisticTracker",
    "ppo_losses",
]

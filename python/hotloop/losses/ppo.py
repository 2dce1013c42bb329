"""The usual pair of PPO losses in one call."""

from __future__ import annotations

from typing import Any

import torch

from hotloop.losses.base import Loss
from hotloop.losses.ppo_actor import PPOActor, PPOActorConfig
from hotloop.losses.ppo_critic import PPOCritic, PPOCriticConfig
from hotloop.losses.ppo_loss import PPOLoss, PPOLossConfig


def ppo_losses(
    policy: Any,
    *,
    trainer_cfg: Any = None,
    env: Any = None,
    device: torch.device | str | None = None,
    fused: bool = False,
    **cfg: Any,
) -> dict[str, Loss]:
    """``{"ppo_critic": PPOCritic, "ppo_actor": PPOActor}`` in the order in which the loop must run them, or
    ``{"ppo": PPOLoss}``, which is both in one native pass.

    Parameters
    ----------
    policy
        See `hotloop.policies.Policy`.
    device
        Device of the training batches; that of the policy's first parameter when None.
    fused
        Whether to give the one loss.
    cfg
        Fields of `PPOActorConfig` and `PPOCriticConfig`, for instance ``ppo_losses(policy, ent_coef=0.0,
        vf_coef=1.0)``.

    Raises TypeError for an unknown setting, pydantic's ValidationError (a ValueError) for a value out of
    range.
    """
    actor_fields, critic_fields = PPOActorConfig.model_fields, PPOCriticConfig.model_fields
    unknown = cfg.keys() - actor_fields.keys() - critic_fields.keys()
    if unknown:
        known = sorted(actor_fields.keys() | critic_fields.keys())
        raise TypeError(f"ppo_losses: unknown settings {sorted(unknown)}; known are {known}")
    if device is None:
        first = next(iter(policy.parameters()), None)
        device = torch.device("cpu") if first is None else first.device
    common: dict[str, Any] = {"trainer_cfg": trainer_cfg, "env": env, "device": device}
    if fused:
        return {"ppo": PPOLoss(policy, PPOLossConfig(**cfg), instance_name="ppo", **common)}
    critic = PPOCriticConfig(**{key: value for key, value in cfg.items() if key in critic_fields})
    actor = PPOActorConfig(**{key: value for key, value in cfg.items() if key in actor_fields})
    return {
        "ppo_critic": PPOCritic(policy, critic, instance_name="ppo_critic", **common),
        "ppo_actor": PPOActor(policy, actor, instance_name="ppo_actor", **common),
    }

"""Settings that change during a run, as functions of the agent steps alone: a resumed run needs no state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from hotloop.trainer.config import TrainConfig
from hotloop.trainer.config_sections import ScheduleConfig


def scheduled(base: float, schedule: ScheduleConfig, agent_steps: int, total_timesteps: int) -> float:
    """The value of the epoch that starts after `agent_steps`.

    Over the first `warmup_steps` it rises linearly from 0 to `base`. From there to `total_timesteps` it stays
    (``constant``), or goes to ``base * final_fraction`` on a straight line (``linear``) or half a cosine
    (``cosine``; Loshchilov and Hutter 2017, "SGDR", without restarts), and remains there.
    """
    warmup = schedule.warmup_steps
    if agent_steps < warmup:
        return base * agent_steps / warmup
    if schedule.kind == "constant":
        return base
    # A warm-up as long as the run leaves no time to come down.
    done = min(1.0, (agent_steps - warmup) / max(1, total_timesteps - warmup))
    left = 1.0 - done if schedule.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return base * (schedule.final_fraction + (1.0 - schedule.final_fraction) * left)


def apply_schedules(
    config: TrainConfig, agent_steps: int, optimizer: torch.optim.Optimizer, losses: Mapping[str, Any]
) -> None:
    """Sets the learning rate of every parameter group, and `ent_coef` of every loss that has one, for the
    epoch that starts after `agent_steps`."""
    total, schedules = config.total_timesteps, config.schedules
    rate = scheduled(config.optimizer.learning_rate, schedules.learning_rate, agent_steps, total)
    for group in optimizer.param_groups:
        group["lr"] = rate
    bonus = scheduled(config.actor.ent_coef, schedules.ent_coef, agent_steps, total)
    for loss in losses.values():
        # Compared first: an assignment is validated, which costs more than the epoch's whole bookkeeping.
        if getattr(loss.cfg, "ent_coef", bonus) != bonus:
            loss.cfg.ent_coef = bonus

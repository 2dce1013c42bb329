"""Advantages in plain torch, in the order of Metta's arguments of January 2026."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def compute_advantage(
    values: Tensor,
    rewards: Tensor,
    dones: Tensor,
    importance_sampling_ratio: Tensor,
    advantages: Tensor,
    gamma: float,
    gae_lambda: float,
    device: torch.device,
    vtrace_rho_clip: float = 1.0,
    vtrace_c_clip: float = 1.0,
) -> Tensor:
    columns = (values, rewards, dones, importance_sampling_ratio, advantages)
    values, rewards, dones, ratio, advantages = (column.to(device) for column in columns)
    with torch.no_grad():  # all but the last column, from the last to the first
        discount: Any = torch.tensor(gamma) * torch.tensor(gae_lambda)  # both are float32 there
        following = torch.zeros(len(values))
        for t in range(values.shape[1] - 2, -1, -1):
            alive = 1.0 - dones[:, t + 1]
            delta = rewards[:, t + 1] + gamma * values[:, t + 1] * alive - values[:, t]
            delta = ratio[:, t].clamp(max=vtrace_rho_clip) * delta
            following = delta + discount * ratio[:, t].clamp(max=vtrace_c_clip) * following * alive
            advantages[:, t] = following
    return advantages


def compute_delta_lambda(
    *, values: Tensor, rewards: Tensor, dones: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    found = torch.zeros_like(values)
    following = torch.zeros_like(values[:, 0])
    for t in range(values.shape[1] - 2, -1, -1):
        alive = 1.0 - dones[:, t + 1]
        delta = rewards[:, t + 1] + gamma * values[:, t + 1] * alive - values[:, t]
        following = delta + gamma * gae_lambda * alive * following
        found[:, t] = following
    return found

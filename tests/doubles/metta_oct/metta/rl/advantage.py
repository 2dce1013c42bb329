"""Advantages in plain torch, in the order of Metta's arguments of October 2025."""

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
    vtrace_rho_clip: float,
    vtrace_c_clip: float,
    device: torch.device,
) -> Tensor:
    columns = (values, rewards, dones, importance_sampling_ratio, advantages)
    fill(*(column.to(device) for column in columns), gamma, gae_lambda, vtrace_rho_clip, vtrace_c_clip)
    return advantages


@torch.no_grad()
def fill(
    values: Tensor, rewards: Tensor, dones: Tensor, ratio: Tensor, advantages: Tensor, gamma: float,
    gae_lambda: float, rho_clip: float, c_clip: float,
) -> None:  # fmt: skip
    """All but the last column, from the last to the first."""
    discount: Any = torch.tensor(gamma) * torch.tensor(gae_lambda)  # both are float32 there
    following = torch.zeros(len(values))
    for t in range(values.shape[1] - 2, -1, -1):
        alive = 1.0 - dones[:, t + 1]
        delta = rewards[:, t + 1] + gamma * values[:, t + 1] * alive - values[:, t]
        delta = ratio[:, t].clamp(max=rho_clip) * delta
        following = delta + discount * ratio[:, t].clamp(max=c_clip) * following * alive
        advantages[:, t] = following

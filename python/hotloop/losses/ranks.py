"""What the losses must agree on between the ranks of a data-parallel run. No collective is issued on a single
rank."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def several_ranks() -> bool:
    """Whether torch.distributed is running with more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def global_moments(count: Tensor, mean: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and sum of squared deviations (scalars) of all ranks' entries together.

    One collective. Joined by the rule of Chan, Golub and LeVeque (1979), which unlike E[x^2] - E[x]^2 does
    not cancel. On a single rank the arguments themselves are returned.
    """
    if not several_ranks():
        return count, mean, squares
    own = torch.stack((count.to(mean.dtype), mean, squares))
    everyone = own.new_empty(dist.get_world_size() * 3)
    dist.all_gather_into_tensor(everyone, own)
    counts, means, scatters = everyone.view(-1, 3).unbind(-1)
    total = counts.sum()
    joint_mean = (counts * means).sum() / total.clamp_min(1)
    return total, joint_mean, (scatters + counts * (means - joint_mean).square()).sum()


def global_sum(x: Tensor) -> Tensor:
    """Sum of `x` over the ranks; `x` itself on a single rank."""
    if several_ranks():
        x = x.clone()
        dist.all_reduce(x)
    return x

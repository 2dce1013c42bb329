"""The arithmetic of the PPO losses as plain functions.

Tensors have any common shape, ``[B, T]`` in the loop: B rows of T steps. `valid` marks the entries that
count, as bool; None means all. Whatever invalid entries hold, NaN included, reaches neither a result nor a
gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hotloop import ops
from hotloop.devices import in_host_memory
from hotloop.losses.ranks import global_moments, join_moments, several_ranks


def masked_mean(x: Tensor, valid: Tensor | None = None, *, count: Tensor | None = None) -> Tensor:
    """Mean over valid entries; 0 (with a graph) when there are none.

    `count` is the number of valid entries where the caller has it already, here and below.
    """
    if valid is None:
        return x.mean() if x.numel() else x.sum()
    number = valid.sum() if count is None else count
    return _keep(x, valid).sum() / number.clamp_min(1)


def masked_means(
    xs: Sequence[Tensor], valid: Tensor | None = None, *, count: Tensor | None = None
) -> tuple[Tensor, ...]:
    """`masked_mean` of several tensors of one shape and dtype, in a few kernels together."""
    stacked = torch.stack(tuple(xs)).flatten(1)
    if valid is None:
        return (stacked.sum(1) / max(1, stacked.shape[1])).unbind()
    number = valid.sum() if count is None else count
    return (_keep(stacked, valid.flatten()).sum(1) / number.clamp_min(1)).unbind()


def normalize_advantages(
    advantages: Tensor, valid: Tensor | None = None, *, eps: float = 1e-8, moments: Tensor | None = None
) -> Tensor:
    """``(A - mean) / (std + eps)`` over valid entries, 0 elsewhere.

    `std` is the sample standard deviation (divisor n - 1). When torch.distributed runs with several ranks,
    mean and standard deviation are those of all ranks' entries together, so that ranks do not train on
    different scales. `moments`, mean and standard deviation ``[2]``, are used where the caller has them of
    more than these entries.
    """
    if moments is not None:
        mean, std = moments.to(advantages.dtype).unbind()
        return _keep(advantages - mean, valid) / (std + eps)
    own_count = advantages.new_full((), advantages.numel()) if valid is None else valid.sum()
    own_mean = masked_mean(advantages, valid, count=own_count)
    own_squares = _keep(advantages - own_mean, valid).square().sum()
    count, mean, squares = global_moments(own_count, own_mean, own_squares)
    std = (squares / (count - 1).clamp_min(1)).sqrt()
    return _keep(advantages - mean, valid) / (std + eps)


def advantage_moments(advantages: Tensor, valid: Tensor | None = None) -> Tensor:
    """Count, mean and sum of squared deviations over valid entries, float64 ``[3]``."""
    numbers = advantages.to(torch.float64)
    count = numbers.new_full((), numbers.numel()) if valid is None else valid.sum(dtype=torch.float64)
    mean = masked_mean(numbers, valid, count=count)
    return torch.stack((count, mean, _keep(numbers - mean, valid).square().sum()))


def mean_and_std(moments: Tensor) -> Tensor:
    """Mean and sample standard deviation ``[2]`` of several sets together, those of other ranks included,
    from their `advantage_moments` ``[k, 3]``."""
    count, mean, squares = global_moments(*join_moments(moments))
    return torch.stack((mean, (squares / (count - 1).clamp_min(1)).sqrt()))


def importance_ratio(new_log_prob: Tensor, old_log_prob: Tensor, valid: Tensor | None = None) -> Tensor:
    """``exp(new - old)`` with the exponent clamped to [-10, 10]; 1 at invalid entries."""
    log_ratio = new_log_prob - old_log_prob
    return _keep(log_ratio, valid).clamp(-10.0, 10.0).exp()


def clipped_surrogate(
    ratio: Tensor,
    advantages: Tensor,
    clip_coef: float,
    valid: Tensor | None = None,
    *,
    count: Tensor | None = None,
) -> Tensor:
    """``mean(max(-A r, -A clip(r, 1 - c, 1 + c)))``: minus equation 7 of Schulman et al. (2017), PPO."""
    # Both before their product: 0 * NaN would reach the gradient.
    ratio, advantages = _keep(ratio, valid), _keep(advantages, valid)
    clipped = ratio.clamp(1.0 - clip_coef, 1.0 + clip_coef)
    return masked_mean(torch.maximum(-advantages * ratio, -advantages * clipped), valid, count=count)


def value_loss(
    new_values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    clip_coef: float | None = None,
    valid: Tensor | None = None,
    *,
    count: Tensor | None = None,
) -> Tensor:
    """Half the mean squared error of the values, pessimistically clipped when `clip_coef` is given.

    Clipped: ``0.5 * mean(max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2))``, as in OpenAI Baselines'
    PPO2.
    """
    # Before the differences, so that invalid entries have error 0 whatever they hold.
    new_values, old_values, returns = (_keep(x, valid) for x in (new_values, old_values, returns))
    errors = (new_values - returns).square()
    if clip_coef is not None:
        clipped = old_values + (new_values - old_values).clamp(-clip_coef, clip_coef)
        errors = torch.maximum(errors, (clipped - returns).square())
    return 0.5 * masked_mean(errors, valid, count=count)


def kl_estimates(ratio: Tensor, new_log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """``(r - 1) - log r`` per entry, the ratio as it was clamped, the log ratio as it was not.

    Their mean is the unbiased, non-negative estimate k3 of KL(old || new) (Schulman, "Approximating KL
    divergence", 2020).
    """
    return ratio - 1.0 - (new_log_prob - old_log_prob)


def explained_variance(values: Tensor, returns: Tensor, valid: Tensor | None = None) -> Tensor:
    """``1 - Var(R - V) / Var(R)`` over valid entries of all ranks, as a scalar; 0 when the returns do not
    vary, NaN where an entry is not finite."""
    both = (returns, returns - values)
    means = torch.stack([masked_mean(x, valid) for x in both])
    squares = torch.stack(
        [_keep(x - mean, valid).square().sum() for x, mean in zip(both, means.unbind(), strict=True)]
    )
    count = means.new_full((), returns.numel()) if valid is None else valid.sum()
    return _explained(count, means, squares)


def explained_variance_by(values: Tensor, advantages: Tensor, valid: Tensor | None = None) -> Tensor | float:
    """`explained_variance` of the returns ``advantages + values``; a number where nobody has to be waited for
    to read it."""
    tensors = (values, advantages) if valid is None else (values, advantages, valid)
    if values.dim() != 2 or not all(x.is_cpu for x in tensors):
        return explained_variance(values, advantages + values, valid)
    moments = ops.return_moments(values, advantages, valid)
    if several_ranks() or not in_host_memory(values.device):
        return _explained(moments[0], moments[1::2], moments[2::2])
    _, _, total, _, residual = moments.tolist()
    return 0.0 if total == 0.0 else 1.0 - residual / total


def _explained(count: Tensor, means: Tensor, squares: Tensor) -> Tensor:
    """From the moments of returns and residuals."""
    _, _, (total, residual) = global_moments(count, means, squares)
    return torch.where(total == 0, 0.0, 1.0 - residual / total)


def _keep(x: Tensor, valid: Tensor | None) -> Tensor:
    """`x` with zeros at invalid entries."""
    return x if valid is None else torch.where(valid, x, 0.0)

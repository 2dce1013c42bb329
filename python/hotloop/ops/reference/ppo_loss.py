"""Slow, obvious twin of `ppo_loss`: differentiable torch in float64, on the valid entries alone."""

from __future__ import annotations

import torch
from torch import Tensor


def ppo_loss(
    new_log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    new_values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    entropy: Tensor,
    *,
    prio_weights: Tensor | None = None,
    valid: Tensor | None = None,
    clip_coef: float = 0.2,
    vf_clip_coef: float | None = None,
    vf_coef: float = 0.5,
    ent_coef: float = 0.0,
    normalize_advantage: bool = True,
    eps: float = 1e-8,
) -> tuple[Tensor, Tensor]:
    """Loss and statistics; see `hotloop.ops.ppo_loss`."""
    keep = torch.ones_like(new_log_prob, dtype=torch.bool) if valid is None else valid != 0
    weights = torch.ones_like(advantages) if prio_weights is None else prio_weights
    inputs = (new_log_prob, old_log_prob, advantages, new_values, old_values, returns, entropy, weights)
    new, old, a, v, v_old, r, h, w = (x[keep].to(torch.float64) for x in inputs)
    count = max(1, new.numel())
    if normalize_advantage:
        a = a - a.sum() / count
        a = a / ((a.square().sum() / max(1, count - 1)).sqrt() + eps)
    a = a * w
    log_ratio = new - old
    ratio = log_ratio.clamp(-10.0, 10.0).exp()
    clipped = ratio.clamp(1.0 - clip_coef, 1.0 + clip_coef)
    policy = torch.maximum(-a * ratio, -a * clipped).sum() / count
    errors = (v - r).square()
    if vf_clip_coef is not None:
        limited = v_old + (v - v_old).clamp(-vf_clip_coef, vf_clip_coef)
        errors = torch.maximum(errors, (limited - r).square())
    value = 0.5 * errors.sum() / count
    loss = policy - ent_coef * h.sum() / count + vf_coef * value
    residual = r - v_old
    means = [h, ratio - 1 - log_ratio, ((ratio - 1).abs() > clip_coef).double(), ratio, new]
    statistics = [
        policy,
        value,
        *(x.sum() / count for x in means),
        torch.tensor(float(new.numel()), dtype=torch.float64),
        *(x.sum() for x in (r, r.square(), residual, residual.square())),
    ]
    return loss.to(new_log_prob.dtype), torch.stack(statistics).detach()


def importance_ratio(
    new_log_prob: Tensor,
    old_log_prob: Tensor,
    valid: Tensor | None = None,
    invalid: float = 1.0,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """See `hotloop.ops.importance_ratio`."""
    ratio = (new_log_prob - old_log_prob).clamp(-10.0, 10.0).exp()
    if valid is not None:
        ratio = torch.where(valid != 0, ratio, invalid)
    return ratio if out is None else out.copy_(ratio)


def return_moments(
    values: Tensor, advantages: Tensor, valid: Tensor | None = None, *, out: Tensor | None = None
) -> Tensor:
    """See `hotloop.ops.return_moments`."""

    def wide(x: Tensor) -> Tensor:
        return x if x.dtype == torch.float64 else x.to(torch.float32)

    keep = torch.ones_like(values, dtype=torch.bool) if valid is None else valid != 0
    found = [keep.sum().double()]
    for x in (wide(advantages) + wide(values), wide(advantages)):
        kept = x[keep].double()
        mean = kept.sum() / max(1, kept.numel())
        found += [mean, (kept - mean).square().sum()]
    moments = torch.stack(found)
    return moments if out is None else out.copy_(moments)

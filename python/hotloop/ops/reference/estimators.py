"""Slow, obvious twins of the estimators."""

from __future__ import annotations

import torch
from torch import Tensor

from hotloop.ops.reference.scans import arithmetic, cut, per_row


def _on_request(advantages: Tensor, valid: Tensor, priorities: Tensor | None, summary: Tensor | None) -> None:
    """Fills what was asked for from advantages `[N, T]`; see `hotloop.ops.AdvantageSummary`."""
    if priorities is not None:
        row_priorities(advantages, out=priorities)
    if summary is not None:
        seen = valid != 0
        finite = advantages[seen & advantages.isfinite()].double()
        bad = (seen & ~advantages.isfinite()).nonzero()
        mean = finite.mean() if len(finite) else torch.zeros(())
        first = bad[0].tolist() if len(bad) else [-1, -1]
        entries = [len(finite), mean.item(), ((finite - mean) ** 2).sum().item(), len(bad), *first]
        summary.copy_(torch.tensor(entries, dtype=torch.float64))


def puff_advantage(
    values: Tensor,
    rewards: Tensor,
    dones: Tensor,
    importance: Tensor,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
    *,
    next_values: Tensor | None = None,
    next_rewards: Tensor | None = None,
    next_dones: Tensor | None = None,
    returns: Tensor | None = None,
    priorities: Tensor | None = None,
    summary: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Arrival-indexed V-trace-clipped GAE on `[S, T]`; see `hotloop.ops.puff_advantage`."""
    segments, horizon = values.shape
    result_dtype, dtype = values.dtype, arithmetic(values.dtype)
    values, rewards, importance, dones = (
        values.to(dtype),
        rewards.to(dtype),
        importance.to(dtype),
        dones.to(dtype),
    )
    gamma_t = per_row(gamma, segments, dtype)
    decay = gamma_t * per_row(gae_lambda, segments, dtype)
    advantages = torch.zeros(segments, horizon, dtype=dtype)
    trace = torch.zeros(segments, dtype=dtype)
    for t in reversed(range(horizon)):
        if t + 1 < horizon:
            value_next, reward_next, done_next = values[:, t + 1], rewards[:, t + 1], dones[:, t + 1]
        elif next_values is not None and next_rewards is not None and next_dones is not None:
            value_next, reward_next, done_next = (
                next_values.to(dtype),
                next_rewards.to(dtype),
                next_dones.to(dtype),
            )
        else:
            continue  # nothing is known of what arrives after the last step: the column stays zero
        alive = 1 - done_next
        rho = importance[:, t].clamp(max=rho_clip)
        c = importance[:, t].clamp(max=c_clip)
        delta = rho * (reward_next + gamma_t * alive * value_next - values[:, t])
        trace = delta + decay * c * alive * trace
        advantages[:, t] = trace
    if returns is not None:
        returns.copy_((advantages + values).to(result_dtype))
    advantages = advantages.to(result_dtype)
    _on_request(advantages, torch.ones_like(advantages), priorities, summary)
    return advantages if out is None else out.copy_(advantages)


def gae(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor | None = None,
    *,
    last_values: Tensor,
    truncation_values: Tensor | None = None,
    valid: Tensor | None = None,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
    time_major: bool = False,
    priorities: Tensor | None = None,
    summary: Tensor | None = None,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Departure-indexed GAE on `[N, T]` (or `[T, N]`); see `hotloop.ops.gae`."""
    if time_major:
        rewards, values, terminated = rewards.T, values.T, terminated.T
        truncated = None if truncated is None else truncated.T
        truncation_values = None if truncation_values is None else truncation_values.T
        valid = None if valid is None else valid.T
    if truncated is not None and truncation_values is None and truncated.any():
        raise ValueError("gae: truncation_values must be given when truncated has true entries, got None")
    result_dtype, dtype = values.dtype, arithmetic(values.dtype)
    values = values.to(dtype)
    rows, horizon = values.shape
    gamma_t = per_row(gamma, rows, dtype)
    decay = gamma_t * per_row(gae_lambda, rows, dtype)
    advantages, returns = torch.zeros(rows, horizon, dtype=dtype), torch.zeros(rows, horizon, dtype=dtype)
    for n in range(rows):
        trace = torch.zeros((), dtype=dtype)
        for t in reversed(range(horizon)):
            if valid is not None and not valid[n, t]:
                trace = torch.zeros((), dtype=dtype)  # the trace does not cross a filler step
                returns[n, t] = values[n, t]
                continue
            ends = bool(truncated[n, t]) if truncated is not None else False
            if terminated[n, t]:
                next_value, ends = torch.zeros((), dtype=dtype), True
            elif ends and truncation_values is not None:
                next_value = truncation_values[n, t].to(dtype)
            else:
                next_value = values[n, t + 1] if t + 1 < horizon else last_values[n].to(dtype)
            delta = rewards[n, t].to(dtype) + gamma_t[n] * next_value - values[n, t]
            trace = delta if ends else delta + cut(decay[n], trace)
            advantages[n, t] = trace
            returns[n, t] = trace + values[n, t]
    seen = torch.ones_like(advantages) if valid is None else valid
    _on_request(advantages.to(result_dtype), seen, priorities, summary)
    if time_major:
        advantages, returns = advantages.T.contiguous(), returns.T.contiguous()
    advantages, returns = advantages.to(result_dtype), returns.to(result_dtype)
    if out is not None:
        return out[0].copy_(advantages), out[1].copy_(returns)
    return advantages, returns


def row_priorities(advantages: Tensor, alpha: float = 1.0, *, out: Tensor | None = None) -> Tensor:
    """`(sum_t |A[i, t]|) ** alpha` per row; a row whose sum or power is not finite counts as 0."""
    total = advantages.to(arithmetic(advantages.dtype)).abs().sum(dim=1)
    powered = torch.where(total.isfinite(), total**alpha, torch.zeros_like(total))
    priorities = torch.nan_to_num(powered.to(advantages.dtype), 0.0, 0.0, 0.0)
    return priorities if out is None else out.copy_(priorities)

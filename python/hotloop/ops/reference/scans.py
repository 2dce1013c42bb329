"""Slow, obvious twins of the bare recurrence and of the arrival-indexed sums of TD errors."""

from __future__ import annotations

import torch
from torch import Tensor


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which an estimator computes: half-precision tensors are widened and rounded once."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def per_row(factor: float | Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """gamma or lambda as `[N]`."""
    return torch.as_tensor(factor, dtype=dtype).expand(rows)


def cut(a: Tensor, y: Tensor) -> Tensor:
    """`a * y`, where a coefficient of zero cuts the trace: what lies beyond must not matter, not even NaN."""
    return torch.where(a != 0, a * y, 0.0)


def reverse_scan(
    a: Tensor,
    b: Tensor,
    last: Tensor | None = None,
    *,
    time_major: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """`y[t] = a[t] * y[t+1] + b[t]` on `[N, T]` (or `[T, N]`); see `hotloop.ops.reverse_scan`."""
    dim = 0 if time_major else 1
    dtype = arithmetic(b.dtype)
    y = torch.zeros(b.shape[1 - dim], dtype=dtype) if last is None else last.to(dtype)
    columns = []
    for t in reversed(range(b.shape[dim])):
        y = b.select(dim, t).to(dtype) + a.select(dim, t).to(dtype) * y
        columns.append(y)
    result = torch.stack(columns[::-1], dim=dim).to(b.dtype) if columns else b.clone()
    return result if out is None else out.copy_(result)


def delta_lambda(
    values: Tensor,
    rewards: Tensor,
    dones: Tensor,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
    *,
    next_values: Tensor | None = None,
    next_rewards: Tensor | None = None,
    next_dones: Tensor | None = None,
    valid: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Arrival-indexed lambda-weighted sums of TD errors on `[S, T]`; see `hotloop.ops.delta_lambda`."""
    segments, horizon = values.shape
    dtype = arithmetic(values.dtype)
    gamma, gae_lambda = per_row(gamma, segments, dtype), per_row(gae_lambda, segments, dtype)
    columns = []
    trace = torch.zeros(segments, dtype=dtype)
    for t in reversed(range(horizon)):
        if t + 1 < horizon:
            arrived = [x[:, t + 1].to(dtype) for x in (values, rewards, dones)]
        elif next_values is not None and next_rewards is not None and next_dones is not None:
            arrived = [x.to(dtype) for x in (next_values, next_rewards, next_dones)]
        else:
            columns.append(trace)  # nothing is known of what arrives after the last step
            continue
        value_next, reward_next, done_next = arrived
        alive = 1 - done_next
        delta = reward_next + gamma * alive * value_next - values[:, t].to(dtype)
        decay = gamma * gae_lambda * alive
        if valid is None:
            trace = delta + decay * trace
        else:
            trace = torch.where(valid[:, t] != 0, delta + cut(decay, trace), 0.0)
        columns.append(trace)
    result = torch.stack(columns[::-1], dim=1).to(values.dtype) if columns else values.clone()
    return result if out is None else out.copy_(result)

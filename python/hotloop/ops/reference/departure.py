"""Slow, obvious twins of the departure-indexed estimators but `gae`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hotloop.ops.reference.scans import arithmetic, cut, per_row


@dataclass
class Step:
    """Step t of all rows, `[N]` each, in the dtype of the arithmetic."""

    t: int
    reward: Tensor
    bootstrap: Tensor  # 0, V of the final observation, V[t+1] or V after the last step
    continues: Tensor  # whether the next step belongs to the same episode and lies in the row
    valid: Tensor
    gamma: Tensor
    decay: Tensor
    rest: Tensor


class Rows:
    """The inputs that the departure-indexed estimators share, as `[N, T]`."""

    def __init__(
        self,
        op: str,
        rewards: Tensor,
        values: Tensor | None,
        terminated: Tensor,
        truncated: Tensor | None,
        last_values: Tensor,
        truncation_values: Tensor | None,
        valid: Tensor | None,
        gamma: float | Tensor,
        gae_lambda: float | Tensor,
        time_major: bool,
        dtype: torch.dtype,
    ) -> None:
        self.time_major = time_major
        self.result_dtype, self.dtype = dtype, arithmetic(dtype)
        self.rewards = self.matrix(rewards)
        rows, self.horizon = self.rewards.shape
        zeros = torch.zeros(rows, self.horizon, dtype=self.dtype)
        self.values = zeros if values is None else self.matrix(values)
        self.terminated = self.matrix(terminated) != 0
        self.truncated = zeros != 0 if truncated is None else self.matrix(truncated) != 0
        self.valid = zeros == 0 if valid is None else self.matrix(valid) != 0
        if truncation_values is None and self.truncated.any():
            raise ValueError(
                f"{op}: truncation_values must be given when truncated has true entries, got None"
            )
        self.truncation_values = zeros if truncation_values is None else self.matrix(truncation_values)
        self.last_values = last_values.to(self.dtype)
        self.gamma = per_row(gamma, rows, self.dtype)
        self.gae_lambda = per_row(gae_lambda, rows, self.dtype)

    def matrix(self, x: Tensor) -> Tensor:
        return (x.T if self.time_major else x).to(self.dtype)

    def scan(self, step: Callable[[Step], tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """`y[t] = a * y[t+1] + b` with `(a, b, idle)` from `step`; `idle` where a step is not valid."""
        y = torch.zeros(len(self.rewards), dtype=self.dtype)
        columns = []
        for t in reversed(range(self.horizon)):
            s = self.step(t)
            a, b, idle = step(s)
            y = torch.where(s.valid, b + cut(a, y), idle)
            columns.append(y)
        return torch.stack(columns[::-1], dim=1) if columns else self.rewards.clone()

    def step(self, t: int) -> Step:
        last = t + 1 == self.horizon
        following = self.last_values if last else self.values[:, t + 1]
        bootstrap = torch.where(self.truncated[:, t], self.truncation_values[:, t], following)
        bootstrap = torch.where(self.terminated[:, t], 0.0, bootstrap)
        ends = self.terminated[:, t] | self.truncated[:, t] | last
        return Step(
            t=t,
            reward=self.rewards[:, t],
            bootstrap=bootstrap,
            continues=~ends,
            valid=self.valid[:, t],
            gamma=self.gamma,
            decay=self.gamma * self.gae_lambda,
            rest=self.gamma * (1 - self.gae_lambda),
        )

    def result(self, x: Tensor, out: Tensor | None) -> Tensor:
        x = (x.T.contiguous() if self.time_major else x).to(self.result_dtype)
        return x if out is None else out.copy_(x)


def td_lambda(
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
    out: Tensor | None = None,
) -> Tensor:
    """TD(lambda) returns on `[N, T]` (or `[T, N]`); see `hotloop.ops.td_lambda`."""
    rows = Rows(
        "td_lambda", rewards, values, terminated, truncated, last_values, truncation_values, valid, gamma,
        gae_lambda, time_major, values.dtype,
    )  # fmt: skip

    def step(s: Step) -> tuple[Tensor, Tensor, Tensor]:
        share = torch.where(s.continues, s.rest, s.gamma)
        a = torch.where(s.continues, s.decay, 0.0)
        return a, s.reward + share * s.bootstrap, rows.values[:, s.t]

    return rows.result(rows.scan(step), out)


def discounted_return(
    rewards: Tensor,
    terminated: Tensor,
    truncated: Tensor | None = None,
    *,
    last_values: Tensor,
    truncation_values: Tensor | None = None,
    valid: Tensor | None = None,
    gamma: float | Tensor,
    time_major: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Bootstrapped discounted returns on `[N, T]` (or `[T, N]`); see `hotloop.ops.discounted_return`."""
    rows = Rows(
        "discounted_return", rewards, None, terminated, truncated, last_values, truncation_values, valid,
        gamma, 1.0, time_major, rewards.dtype,
    )  # fmt: skip

    def step(s: Step) -> tuple[Tensor, Tensor, Tensor]:
        b = s.reward + torch.where(s.continues, 0.0, s.gamma * s.bootstrap)
        return torch.where(s.continues, s.gamma, 0.0), b, torch.zeros_like(b)

    return rows.result(rows.scan(step), out)


def vtrace(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor | None = None,
    *,
    importance: Tensor,
    last_values: Tensor,
    truncation_values: Tensor | None = None,
    valid: Tensor | None = None,
    gamma: float | Tensor,
    gae_lambda: float | Tensor = 1.0,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
    pg_rho_clip: float | None = None,
    time_major: bool = False,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """V-trace on `[N, T]` (or `[T, N]`); see `hotloop.ops.vtrace`."""
    rows = Rows(
        "vtrace", rewards, values, terminated, truncated, last_values, truncation_values, valid, gamma,
        gae_lambda, time_major, values.dtype,
    )  # fmt: skip
    ratio = rows.matrix(importance)
    pg_clip = rho_clip if pg_rho_clip is None else pg_rho_clip

    def delta(s: Step) -> Tensor:
        return s.reward + s.gamma * s.bootstrap - rows.values[:, s.t]

    def step(s: Step) -> tuple[Tensor, Tensor, Tensor]:
        rho, c = ratio[:, s.t].clamp(max=rho_clip), ratio[:, s.t].clamp(max=c_clip)
        return torch.where(s.continues, s.decay * c, 0.0), rho * delta(s), torch.zeros_like(rho)

    correction = rows.scan(step)
    advantages = torch.zeros_like(correction)
    for t in range(rows.horizon):
        s = rows.step(t)
        beyond = correction[:, t + 1] if t + 1 < rows.horizon else torch.zeros_like(s.reward)
        advantage = delta(s) + cut(torch.where(s.continues, s.decay, 0.0), beyond)
        advantages[:, t] = torch.where(s.valid, ratio[:, t].clamp(max=pg_clip) * advantage, 0.0)
    first, second = (None, None) if out is None else out
    return rows.result(correction + rows.values, first), rows.result(advantages, second)


def retrace(
    rewards: Tensor,
    q_values: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor | None = None,
    *,
    importance: Tensor,
    last_values: Tensor,
    truncation_values: Tensor | None = None,
    valid: Tensor | None = None,
    gamma: float | Tensor,
    gae_lambda: float | Tensor = 1.0,
    c_clip: float = 1.0,
    time_major: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Retrace(lambda) targets on `[N, T]` (or `[T, N]`); see `hotloop.ops.retrace`."""
    rows = Rows(
        "retrace", rewards, values, terminated, truncated, last_values, truncation_values, valid, gamma,
        gae_lambda, time_major, q_values.dtype,
    )  # fmt: skip
    ratio, q = rows.matrix(importance), rows.matrix(q_values)

    def step(s: Step) -> tuple[Tensor, Tensor, Tensor]:
        c = ratio[:, s.t + 1].clamp(max=c_clip) if s.t + 1 < rows.horizon else torch.zeros_like(s.reward)
        b = s.reward + s.gamma * s.bootstrap - q[:, s.t]
        return torch.where(s.continues, s.decay * c, 0.0), b, torch.zeros_like(b)

    return rows.result(rows.scan(step) + q, out)

"""`td_lambda`: TD(lambda) returns, departure-indexed, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotloop import _core
from hotloop.ops._register import (
    refuse_out,
    register_estimator,
    register_gradient,
    require_tensor,
    wants_gradient,
)


def _allocate(rewards: Tensor, values: Tensor, *_: object) -> Tensor:
    require_tensor("td_lambda", "values", values)
    return values.new_empty(values.shape)


def _allocate_gradients(
    grad: Tensor,
    terminated: Tensor,
    truncated: Tensor | None,
    valid: Tensor | None,
    gamma: object,
    gae_lambda: object,
    time_major: bool,
    *_: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape, rows = grad.shape, grad.shape[1 if time_major else 0]
    return grad.new_empty(shape), grad.new_empty(shape), grad.new_empty(rows), grad.new_empty(shape)


_ROAD = register_estimator(
    "td_lambda",
    "Tensor rewards, Tensor values, Tensor terminated, Tensor? truncated, Tensor last_values, "
    "Tensor? truncation_values, Tensor? valid, float gamma, float gae_lambda, bool time_major=False",
    ("Tensor(a!) out",),
    _core.td_lambda,
    _allocate,
    per_row=("gamma", "gae_lambda"),
)
register_estimator(
    "td_lambda_backward",
    "Tensor grad, Tensor terminated, Tensor? truncated, Tensor? valid, float gamma, float gae_lambda, "
    "bool time_major",
    (
        "Tensor(a!) grad_rewards", "Tensor(b!) grad_values", "Tensor(c!) grad_last_values",
        "Tensor(d!) grad_truncation_values",
    ),
    _core.td_lambda_backward,
    _allocate_gradients,
    per_row=("gamma", "gae_lambda"),
)  # fmt: skip


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    (
        _, _, terminated, truncated, _, truncation_values, valid, gamma, gae_lambda, time_major,
        gammas, gae_lambdas,
    ) = inputs  # fmt: skip
    ctx.save_for_backward(terminated, truncated, valid, gammas, gae_lambdas)
    ctx.scalars = gamma, gae_lambda, time_major
    ctx.has_truncation_values = truncation_values is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    terminated, truncated, valid, gammas, gae_lambdas = ctx.saved_tensors
    rewards, values, last_values, truncation_values = torch.ops.hotloop.td_lambda_backward(
        grad, terminated, truncated, valid, *ctx.scalars, gammas, gae_lambdas
    )
    if not ctx.has_truncation_values:
        truncation_values = None
    return (
        rewards, values, None, None, last_values, truncation_values, None, None, None, None, None, None,
    )  # fmt: skip


_DIFFERENTIABLE = register_gradient("td_lambda", _setup_context, _backward)


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
    """TD(lambda) returns (Sutton 1988) of rows whose rewards and flags are departure-indexed.

    With nextV as in `gae`::

        G[t] = r[t] + gamma * nextV[t]                                             where the episode ends
        G[t] = r[t] + gamma * ((1 - gae_lambda) * V[t+1] + gae_lambda * G[t+1])    elsewhere
        G[T-1] = r[T-1] + gamma * nextV[T-1]

    This is `gae`'s return (advantage plus V), computed without the detour; lambda = 1 is the discounted
    return with bootstrap, lambda = 0 the one-step target. Differentiable in `rewards`, `values`,
    `last_values` and `truncation_values`, once. An episode's end cuts exactly, and so does a coefficient
    gamma * gae_lambda of 0: not even NaN crosses it; else NaN and inf follow the formula.

    Args:
        rewards: `[N, T]` (`[T, N]` with `time_major`), floating.
        values: the same shape, floating. The arithmetic is done in its dtype; in float32 for bfloat16 and
            float16, and the result is rounded once, as `.to()` rounds.
        terminated, truncated: the same shape, bool, uint8 or floating.
        last_values: `[N]`, V of the observation after the last step.
        truncation_values: the same shape, V of the final observation where `truncated`; not read elsewhere.
        valid: the same shape; false marks a filler step: its return is V, and nothing crosses it.
        gamma: discount a step, in [0, 1]: a number, or `[N]` for one a row.
        gae_lambda: in [0, 1], likewise.
        time_major: whether the first dimension is time.
        out: the same shape, dtype of `values`, memory of its own; only where no input requires grad.

    Returns:
        `G`, of the shape and dtype of `values`: `out`, or a new tensor.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has an unsupported dtype.
        ValueError: shapes differ, a discount is out of range, `out` overlaps an input or is given where an
            input requires grad, or `truncated` has true entries without `truncation_values`.
    """
    inputs = (
        rewards, values, terminated, truncated, last_values, truncation_values, valid, gamma, gae_lambda,
        time_major,
    )  # fmt: skip
    if wants_gradient(rewards, values, last_values, truncation_values):
        refuse_out("td_lambda", out)
        result: Tensor = _DIFFERENTIABLE(*inputs)
        return result
    if out is None:
        out = _allocate(rewards, values)
    if _core.td_lambda(*inputs, out) is NotImplemented:
        _ROAD(*inputs, out)
    return out

"""`delta_lambda`: arrival-indexed lambda-weighted sums of TD errors, differentiable."""

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


def _allocate(values: Tensor, *_: object) -> Tensor:
    require_tensor("delta_lambda", "values", values)
    return values.new_empty(values.shape)


def _allocate_gradients(grad: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape, segments = grad.shape, grad.shape[0]
    return grad.new_empty(shape), grad.new_empty(shape), grad.new_empty(segments), grad.new_empty(segments)


_ROAD = register_estimator(
    "delta_lambda",
    "Tensor values, Tensor rewards, Tensor dones, float gamma, float gae_lambda, Tensor? next_values=None, "
    "Tensor? next_rewards=None, Tensor? next_dones=None, Tensor? valid=None",
    ("Tensor(a!) out",),
    _core.delta_lambda,
    _allocate,
    per_row=("gamma", "gae_lambda"),
)
register_estimator(
    "delta_lambda_backward",
    "Tensor grad, Tensor dones, float gamma, float gae_lambda, Tensor? next_dones, Tensor? valid",
    (
        "Tensor(a!) grad_values", "Tensor(b!) grad_rewards", "Tensor(c!) grad_next_values",
        "Tensor(d!) grad_next_rewards",
    ),
    _core.delta_lambda_backward,
    _allocate_gradients,
    per_row=("gamma", "gae_lambda"),
)  # fmt: skip


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, dones, gamma, gae_lambda, _, _, next_dones, valid, gammas, gae_lambdas = inputs
    ctx.save_for_backward(dones, next_dones, valid, gammas, gae_lambdas)
    ctx.discounts = gamma, gae_lambda


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dones, next_dones, valid, gammas, gae_lambdas = ctx.saved_tensors
    values, rewards, next_values, next_rewards = torch.ops.hotloop.delta_lambda_backward(
        grad, dones, *ctx.discounts, next_dones, valid, gammas, gae_lambdas
    )
    if next_dones is None:
        next_values = next_rewards = None
    return values, rewards, None, None, None, next_values, next_rewards, None, None, None, None


_DIFFERENTIABLE = register_gradient("delta_lambda", _setup_context, _backward)


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
    """Lambda-weighted sums of TD errors of arrival-indexed segments, through which a critic can learn.

    `rewards[s, t]` and `dones[s, t]` arrive together with observation t, as in `puff_advantage`, of which
    this is the case with all ratios 1::

        delta[t] = r[t+1] + gamma * (1 - d[t+1]) * V[t+1] - V[t]
        A[t]     = delta[t] + gamma * gae_lambda * (1 - d[t+1]) * A[t+1]

    The last column is 0 unless what arrived at step T is given (`next_*`). Differentiable in `values`,
    `rewards`, `next_values` and `next_rewards`, once: both values of a TD error get a gradient, as Metta's
    `compute_delta_lambda` gives them for gradient-TD critics. NaN and inf follow the formula.

    Args:
        values: `[S, T]`, floating. The arithmetic is done in its dtype; in float32 for bfloat16 and float16,
            and the result is rounded once, as `.to()` rounds.
        rewards: `[S, T]`, floating.
        dones: `[S, T]`, bool, uint8 or floating: 1 where an episode ended.
        gamma: discount a step, in [0, 1]: a number, or `[S]` for one a segment.
        gae_lambda: in [0, 1], likewise.
        next_values, next_rewards, next_dones: `[S]`, all or none: what arrived at step T.
        valid: `[S, T]`, bool, uint8 or floating: where false the result is 0, and the trace does not cross
            it.
        out: `[S, T]`, dtype of `values`, memory of its own; only where no input requires grad.

    Returns:
        `A`, of the shape and dtype of `values`: `out`, or a new tensor.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has an unsupported dtype.
        ValueError: shapes differ, a discount is out of range, `out` overlaps an input, or is given where an
            input requires grad; gamma or lambda require grad.
    """
    if wants_gradient(values, rewards, next_values, next_rewards):
        refuse_out("delta_lambda", out)
        result: Tensor = _DIFFERENTIABLE(
            values, rewards, dones, gamma, gae_lambda, next_values, next_rewards, next_dones, valid
        )
        return result
    if out is None:
        out = _allocate(values)
    native = _core.delta_lambda(
        values, rewards, dones, gamma, gae_lambda, next_values, next_rewards, next_dones, valid, out
    )
    if native is NotImplemented:
        _ROAD(values, rewards, dones, gamma, gae_lambda, next_values, next_rewards, next_dones, valid, out)
    return out

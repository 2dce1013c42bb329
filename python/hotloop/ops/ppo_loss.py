"""`ppo_loss`: PPO's loss, its statistics and its gradients in one native call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hotloop import _core
from hotloop.ops._register import is_traced, register_functional, require_tensor

#: what the entries of the second result of `ppo_loss` are
PPO_STATISTICS = (
    "policy_loss",
    "value_loss",
    "entropy",
    "approx_kl",
    "clipfrac",
    "importance",
    "current_logprobs",
    "count",
    "returns_sum",
    "returns_square_sum",
    "residuals_sum",
    "residuals_square_sum",
)

_INPUTS = (
    "new_log_prob",
    "old_log_prob",
    "advantages",
    "new_values",
    "old_values",
    "returns",
    "entropy",
    "prio_weights",
)
_DIFFERENTIABLE = (0, 3, 6)  # the order of the planes of the saved gradients
_NUM_ARGUMENTS = 15


def _allocate(new_log_prob: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return (
        new_log_prob.new_empty(()),
        new_log_prob.new_empty(len(PPO_STATISTICS), dtype=torch.float64),
        new_log_prob.new_empty((3, *new_log_prob.shape)),
    )


def _refuse_lost_gradients(wanted: Any) -> None:
    for i, name in enumerate(_INPUTS):
        if i not in _DIFFERENTIABLE and wanted[i]:
            raise ValueError(
                f"ppo_loss: {name} must be a tensor that does not require grad (the op differentiates "
                "new_log_prob, new_values and entropy), got requires_grad=True (pass .detach())"
            )


def _spread(planes: tuple[Any, ...]) -> tuple[Any, ...]:
    """The gradients of all arguments from those of the differentiable ones."""
    result: list[Any] = [None] * _NUM_ARGUMENTS
    for i, plane in zip(_DIFFERENTIABLE, planes, strict=True):
        result[i] = plane
    return tuple(result)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _refuse_lost_gradients(ctx.needs_input_grad)
    ctx.save_for_backward(output[2])
    ctx.mark_non_differentiable(output[1], output[2])


def _backward(ctx: Any, grad_loss: Tensor, *_: object) -> tuple[Any, ...]:
    (gradients,) = ctx.saved_tensors
    return _spread((gradients * grad_loss).unbind())


_OP = register_functional(
    "ppo_loss",
    "Tensor new_log_prob, Tensor old_log_prob, Tensor advantages, Tensor new_values, Tensor old_values, "
    "Tensor returns, Tensor entropy, Tensor? prio_weights, Tensor? valid, float clip_coef, "
    "float? vf_clip_coef, float vf_coef, float ent_coef, bool normalize_advantage, float eps",
    3,
    _core.ppo_loss,
    _allocate,
    setup_context=_setup_context,
    backward=_backward,
)


class _PPOLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        loss, statistics, gradients = _allocate(*args)
        native: Any = _core.ppo_loss
        native(*args, loss, statistics, gradients)
        ctx.save_for_backward(gradients)
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)  # none of zeros for the statistics
        return loss, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor | None, *_: object) -> tuple[Any, ...]:
        return (None,) * _NUM_ARGUMENTS if grad_loss is None else _backward(ctx, grad_loss)


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
    """Loss of PPO (Schulman et al. 2017) and the statistics that are usually logged with it::

        r      = exp(clamp(new_log_prob - old_log_prob, -10, 10))
        A      = prio_weights * (advantages - mean) / (std + eps)
        policy = mean(max(-A r, -A clip(r, 1 - clip_coef, 1 + clip_coef)))
        value  = 0.5 mean(max((V - R)^2, (V_old + clip(V - V_old, -vf_clip_coef, vf_clip_coef) - R)^2))
        loss   = policy - ent_coef mean(entropy) + vf_coef value

    Means and the sample standard deviation (divisor n - 1) are over valid entries; without any the loss is 0.
    Whatever invalid entries hold, NaN included, reaches neither a result nor a gradient. The forward pass
    makes the gradients as well, and the backward pass multiplies them by that of the loss. Sums are float64
    and in a fixed order. Mean and standard deviation are those of this process: with several ranks normalise
    before (`hotloop.losses.formulas.normalize_advantages`).

    Args:
        new_log_prob: `[N]` or `[B, T]`, float32 or float64; differentiable.
        old_log_prob, advantages, old_values, returns: the same shape, floating.
        new_values, entropy: the same shape and dtype; differentiable.
        prio_weights: the same shape, floating: factors of the normalised advantages.
        valid: the same shape, bool, uint8 or floating: false marks an entry that does not count.
        clip_coef: ratios outside `[1 - clip_coef, 1 + clip_coef]` gain nothing; >= 0.
        vf_clip_coef: clips the change of a value, in units of return, >= 0; None does not.
        vf_coef, ent_coef: weights of the value loss and of the entropy.
        normalize_advantage: whether to normalise advantages; otherwise they are used as they are.
        eps: added to their standard deviation.

    All tensors are read in place whatever their strides.

    Returns:
        The loss, a scalar of the dtype of `new_log_prob`, and its statistics, float64 `[12]` and not
        differentiable, in the order of `PPO_STATISTICS`: policy_loss, value_loss (without `vf_coef`),
        entropy, approx_kl (estimator k3, `r - 1 - log r`), clipfrac, importance (mean ratio) and
        current_logprobs as means; count, the number of valid entries; and the sums over R, R^2, R - V_old and
        (R - V_old)^2, from which the explained variance of any number of minibatches follows.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has an unsupported dtype.
        ValueError: shapes differ, a number is out of range, or an input that is not differentiated requires
            grad.
    """
    tensors = (
        new_log_prob, old_log_prob, advantages, new_values, old_values, returns, entropy, prio_weights,
    )  # fmt: skip
    args = (
        *tensors, valid, clip_coef, vf_clip_coef, vf_coef, ent_coef, normalize_advantage, eps,
    )  # fmt: skip
    if is_traced(*tensors, valid):
        loss, statistics, _ = _OP(*args)
        return loss, statistics
    require_tensor("ppo_loss", "new_log_prob", new_log_prob)
    wanted = [isinstance(x, Tensor) and x.requires_grad for x in tensors]
    if any(wanted) and torch.is_grad_enabled():
        _refuse_lost_gradients(wanted)
        return _PPOLoss.apply(*args)  # type: ignore[no-any-return, no-untyped-call]
    loss, statistics = new_log_prob.new_empty(()), new_log_prob.new_empty(12, dtype=torch.float64)
    _core.ppo_loss(*args, loss, statistics, None)
    return loss, statistics

"""`gaussian_sample` and `gaussian_evaluate`: a vector of independent normal numbers a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hotloop import _core
from hotloop.ops._register import is_traced, new_real, register, register_functional, require_tensor


def _shape(op: str, mean: Tensor) -> tuple[int, int]:
    """Of the mean, checked here because outputs are allocated before the native checks run."""
    require_tensor(op, "mean", mean)
    if mean.dim() != 2:
        kind = str(mean.dtype).removeprefix("torch.")
        raise ValueError(f"{op}: mean must be [N, k], got {kind} {list(mean.shape)}")
    rows, width = mean.shape
    return rows, width


def _allocate_draw(mean: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    rows, width = _shape("gaussian_sample", mean)
    return new_real(mean, rows, width), new_real(mean, rows), new_real(mean, rows)


_SAMPLE_OUT_OP = register(
    "gaussian_sample",
    "Tensor mean, Tensor log_std, int seed, int step, bool squash, int first_row=0",
    ("Tensor(a!) actions", "Tensor(b!) log_prob", "Tensor(c!) entropy"),
    _core.gaussian_sample,
    _allocate_draw,
)


def gaussian_sample(
    mean: Tensor,
    log_std: Tensor,
    *,
    seed: int,
    step: int,
    first_row: int = 0,
    squash: bool = False,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws k independent normal numbers a row, in the pass that gives their log density and the entropy.

    With `squash` the numbers are u and the actions `tanh(u)`, as in soft actor-critic (Haarnoja et al. 2018):
    the log density is that of the actions, `log N(u) - sum log(1 - tanh(u)^2)`. Actions are rounded to their
    dtype, and kept below 1, before their density is taken: `gaussian_evaluate` of what was stored gives the
    same bits.

    Row n takes numbers 2m and 2m + 1, m = `first_row` + n, of a Philox4x32-10 stream keyed by (seed, step,
    pair of components), transformed by Box and Muller (1958): the draw depends neither on the number of
    threads nor on what ran before. A caller that draws again must give another `step`.

    Args:
        mean: `[N, k]`, floating, any strides.
        log_std: `[N, k]` or `[k]`, floating: logarithm of the standard deviation.
        seed: any 64-bit integer.
        step: the number of this draw, 0 ... 2**63 - 1.
        first_row: the number of row 0, 0 ... 2**32 - 1: who draws for a part of many rows gives the first
            one's, and each row gets what it would get in a call for all.
        squash: whether actions go through tanh.
        out: `(actions, log_prob, entropy)` to write into.

    Arithmetic is float64. Not differentiable: evaluate the actions with `gaussian_evaluate`.

    Returns:
        actions `[N, k]`, log_prob and entropy `[N]` in nats, summed over components; all float64 for a
        float64 mean and float32 otherwise. The entropy is that before squashing, an upper bound of the one
        after it, which has no closed form. NaN in a row reaches that row's results.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has an unsupported dtype.
        ValueError: shapes differ, a number is out of range, or an input requires grad.
    """
    actions, log_prob, entropy = _allocate_draw(mean) if out is None else out
    native = _core.gaussian_sample(
        mean, log_std, seed, step, squash, first_row, actions, log_prob, entropy
    )  # fmt: skip
    if native is NotImplemented:
        _SAMPLE_OUT_OP(
            mean, log_std, seed, step, squash, first_row, actions=actions, log_prob=log_prob, entropy=entropy
        )  # fmt: skip
    return actions, log_prob, entropy


def _allocate_evaluation(mean: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    rows = _shape("gaussian_evaluate", mean)[0]
    return new_real(mean, rows), new_real(mean, rows)


def _allocate_gradients(
    grad_log_prob: Tensor, grad_entropy: Tensor, mean: Tensor, log_std: Tensor, *_: object
) -> tuple[Tensor, Tensor]:
    # An expanded tensor has one element for many: its gradient needs memory for all of them.
    return mean.new_empty(mean.shape), log_std.new_empty(log_std.shape)


_BACKWARD_OP = register_functional(
    "gaussian_evaluate_backward",
    "Tensor grad_log_prob, Tensor grad_entropy, Tensor mean, Tensor log_std, Tensor actions, bool squash",
    2,
    _core.gaussian_evaluate_backward,
    _allocate_gradients,
)


def _refuse_lost_gradient(wanted: bool) -> None:
    if wanted:
        raise ValueError(
            "gaussian_evaluate: actions must be a tensor that does not require grad (the op differentiates "
            "mean and log_std), got requires_grad=True (pass .detach())"
        )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _refuse_lost_gradient(ctx.needs_input_grad[2])
    ctx.save_for_backward(*inputs[:3])
    ctx.squash = inputs[3]


def _backward(ctx: Any, grad_log_prob: Tensor, grad_entropy: Tensor) -> tuple[Any, ...]:
    by_mean, by_log_std = _BACKWARD_OP(grad_log_prob, grad_entropy, *ctx.saved_tensors, ctx.squash)
    return by_mean, by_log_std, None, None


_EVALUATE_OP = register_functional(
    "gaussian_evaluate",
    "Tensor mean, Tensor log_std, Tensor actions, bool squash",
    2,
    _core.gaussian_evaluate,
    _allocate_evaluation,
    setup_context=_setup_context,
    backward=_backward,
)


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, log_std: Tensor, actions: Tensor, squash: bool
    ) -> tuple[Tensor, Tensor]:
        log_prob, entropy = _allocate_evaluation(mean)
        _core.gaussian_evaluate(mean, log_std, actions, squash, log_prob, entropy)
        ctx.save_for_backward(mean, log_std, actions)
        ctx.squash = squash
        return log_prob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_log_prob: Tensor, grad_entropy: Tensor) -> tuple[Any, ...]:
        arguments = (grad_log_prob, grad_entropy, *ctx.saved_tensors)
        if is_traced(*arguments):
            return _backward(ctx, grad_log_prob, grad_entropy)
        by_mean, by_log_std = _allocate_gradients(*arguments)
        native: Any = _core.gaussian_evaluate_backward
        native(*arguments, ctx.squash, by_mean, by_log_std)
        return by_mean, by_log_std, None, None


def gaussian_evaluate(
    mean: Tensor, log_std: Tensor, actions: Tensor, *, squash: bool = False
) -> tuple[Tensor, Tensor]:
    """Log density of given actions and entropy, in one pass; differentiable in `mean` and `log_std`.

    The backward pass is one pass too and needs nothing but the inputs.

    Args:
        mean: `[N, k]`, floating, any strides.
        log_std: `[N, k]` or `[k]`, floating: logarithm of the standard deviation.
        actions: `[N, k]`, floating. With `squash` they are tanh of normal numbers; beyond the greatest number
            below 1 of their dtype they are taken as that number.
        squash: whether actions went through tanh.

    Arithmetic is float64.

    Returns:
        log_prob and entropy `[N]` as in `gaussian_sample`.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has an unsupported dtype.
        ValueError: shapes differ, or `actions` requires grad.
    """
    if is_traced(mean, log_std, actions):
        return _EVALUATE_OP(mean, log_std, actions, squash)  # type: ignore[no-any-return]
    wanted = [isinstance(x, Tensor) and x.requires_grad for x in (mean, log_std, actions)]
    if any(wanted) and torch.is_grad_enabled():
        _refuse_lost_gradient(wanted[2])
        return _Evaluate.apply(mean, log_std, actions, squash)  # type: ignore[no-any-return, no-untyped-call]
    log_prob, entropy = _allocate_evaluation(mean)
    _core.gaussian_evaluate(mean, log_std, actions, squash, log_prob, entropy)
    return log_prob, entropy

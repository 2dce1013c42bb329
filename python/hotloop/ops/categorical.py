"""`categorical_sample` and `categorical_evaluate`: one or several categorical choices a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hotloop import _core
from hotloop.ops._register import is_traced, new_real, register, register_functional, require_tensor


def _rows(op: str, logits: Tensor) -> int:
    """Rows of the logits, checked here because outputs are allocated before the native checks run."""
    require_tensor(op, "logits", logits)
    if logits.dim() != 2:
        kind = str(logits.dtype).removeprefix("torch.")
        raise ValueError(f"{op}: logits must be [N, A], got {kind} {list(logits.shape)}")
    return logits.shape[0]


def _allocate_draw(
    logits: Tensor, mask: Tensor | None, nvec: Sequence[int] | None, *_: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *_allocate_outputs(logits, nvec), new_real(logits, *logits.shape)


def _allocate_outputs(logits: Tensor, nvec: Sequence[int] | None) -> tuple[Tensor, Tensor, Tensor]:
    rows = _rows("categorical_sample", logits)
    actions = logits.new_empty((rows,) if nvec is None else (rows, len(nvec)), dtype=torch.int32)
    return actions, new_real(logits, rows), new_real(logits, rows)


_SAMPLE_OUT_OP = register(
    "categorical_sample",
    "Tensor logits, Tensor? mask, int[]? nvec, int seed, int step, int first_row=0",
    ("Tensor(a!) actions", "Tensor(b!) log_prob", "Tensor(c!) entropy", "Tensor(d!) log_probs"),
    _core.categorical_sample,
    _allocate_draw,
)


def categorical_sample(
    logits: Tensor,
    *,
    seed: int,
    step: int,
    first_row: int = 0,
    mask: Tensor | None = None,
    nvec: Sequence[int] | None = None,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
    log_probs: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws one choice a row and head, in the pass that gives its log probability and the entropy.

    A draw inverts the distribution function: it takes the first choice whose cumulated probability exceeds a
    uniform number. That needs one random number a head, where the Gumbel trick needs one and two logarithms a
    choice. The sums are float64, so that rare choices are drawn as rarely as they should be and choices of
    probability 0 (forbidden ones, logits of minus infinity) never.

    Row n of head h reads bits `first_row` + n of a Philox4x32-10 stream keyed by (seed, step, h): the draw
    depends neither on the number of threads nor on what ran before. A caller that draws again must give
    another `step`.

    Args:
        logits: `[N, A]`, floating, any strides; bfloat16 and float16 are computed in float32.
        seed: any 64-bit integer.
        step: the number of this draw, 0 ... 2**63 - 1.
        first_row: the number of row 0, 0 ... 2**32 - 1: who draws for a part of many rows gives the first
            one's, and each row gets what it would get in a call for all.
        mask: `[N, A]` bool, false where a choice is forbidden; every head of every row keeps one at least.
        nvec: the number of choices of each head, A together; None for one head of A choices.
        out: `(actions, log_prob, entropy)` to write into; actions may be int32 or int64.
        log_probs: `[N, A]`, dtype of log_prob: written too where given, the log probabilities of all choices.

    Not differentiable: evaluate the actions with `categorical_evaluate`, which gives the same bits.

    Returns:
        actions int32 `[N]` (`[N, k]` where `nvec` is given); log_prob and entropy `[N]` in nats, summed over
        heads, float64 for float64 logits and float32 otherwise. A row whose logits hold NaN or plus infinity,
        or minus infinity alone, has log_prob and entropy NaN, and some action in range.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has an unsupported dtype.
        ValueError: shapes differ, a mask forbids every choice of a head, a number is out of range, or
            `logits` requires grad.
    """
    actions, log_prob, entropy = _allocate_outputs(logits, nvec) if out is None else out
    if log_probs is None and is_traced(logits, mask):  # the registered op always writes them
        log_probs = new_real(logits, *logits.shape)
    native = _core.categorical_sample(
        logits, mask, nvec, seed, step, first_row, actions, log_prob, entropy, log_probs
    )  # fmt: skip
    if native is NotImplemented:
        _SAMPLE_OUT_OP(
            logits, mask, nvec, seed, step, first_row,
            actions=actions, log_prob=log_prob, entropy=entropy, log_probs=log_probs,
        )  # fmt: skip
    return actions, log_prob, entropy


def _allocate_evaluation(
    logits: Tensor, actions: Tensor, mask: Tensor | None, nvec: Sequence[int] | None
) -> tuple[Tensor, Tensor, Tensor]:
    rows = _rows("categorical_evaluate", logits)
    heads = 1 if nvec is None else len(nvec)
    return new_real(logits, rows), new_real(logits, rows), new_real(logits, rows, 3 * heads)


def _allocate_gradient(
    grad_log_prob: Tensor, grad_entropy: Tensor, logits: Tensor, *_: object
) -> tuple[Tensor]:
    return (torch.empty_like(logits),)


_BACKWARD_OP = register_functional(
    "categorical_evaluate_backward",
    "Tensor grad_log_prob, Tensor grad_entropy, Tensor logits, Tensor actions, Tensor? mask, int[]? nvec, "
    "Tensor saved",
    1,
    _core.categorical_evaluate_backward,
    _allocate_gradient,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, actions, mask, nvec = inputs
    ctx.save_for_backward(logits, actions, mask, output[2])
    ctx.nvec = nvec
    ctx.mark_non_differentiable(output[2])


def _backward(ctx: Any, grad_log_prob: Tensor, grad_entropy: Tensor, _: object) -> tuple[Any, ...]:
    logits, actions, mask, saved = ctx.saved_tensors
    gradient = _BACKWARD_OP(grad_log_prob, grad_entropy, logits, actions, mask, ctx.nvec, saved)
    return gradient, None, None, None


_EVALUATE_OP = register_functional(
    "categorical_evaluate",
    "Tensor logits, Tensor actions, Tensor? mask, int[]? nvec",
    3,
    _core.categorical_evaluate,
    _allocate_evaluation,
    setup_context=_setup_context,
    backward=_backward,
)


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, actions: Tensor, mask: Tensor | None, nvec: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        log_prob, entropy, saved = _allocate_evaluation(logits, actions, mask, nvec)
        native = _core.categorical_evaluate(logits, actions, mask, nvec, log_prob, entropy, saved)
        if native is NotImplemented:
            log_prob, entropy, saved = _EVALUATE_OP(logits, actions, mask, nvec)
        ctx.save_for_backward(logits, actions, mask, saved)
        ctx.nvec = nvec
        return log_prob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_log_prob: Tensor, grad_entropy: Tensor) -> tuple[Any, ...]:
        logits, actions, mask, saved = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        native = _core.categorical_evaluate_backward(
            grad_log_prob, grad_entropy, logits, actions, mask, ctx.nvec, saved, gradient
        )
        if native is NotImplemented:
            gradient = _BACKWARD_OP(grad_log_prob, grad_entropy, logits, actions, mask, ctx.nvec, saved)
        return gradient, None, None, None


def categorical_evaluate(
    logits: Tensor,
    actions: Tensor,
    *,
    mask: Tensor | None = None,
    nvec: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Log probability of given choices and entropy, in one pass; differentiable in `logits`.

    The backward pass is one pass too: it recomputes the probabilities from `logits` and three numbers a row
    and head that the forward pass saved.

    Args:
        logits: `[N, A]`, floating, any strides; bfloat16 and float16 are computed in float32.
        actions: integers `[N]` or `[N, 1]` (`[N, k]` where `nvec` is given).
        mask: `[N, A]` bool, false where a choice is forbidden; every head of every row keeps one at least.
        nvec: the number of choices of each head, A together; None for one head of A choices.

    Returns:
        log_prob and entropy `[N]` in nats, summed over heads, float64 for float64 logits and float32
        otherwise. A forbidden choice has log_prob minus infinity, adds nothing to the entropy and gets no
        gradient but, if it is the action, that of log_prob. NaN and infinities as in `categorical_sample`.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has an unsupported dtype.
        ValueError: shapes differ, or a mask forbids every choice of a head.
        IndexError: an action is out of range.
    """
    if is_traced(logits, actions, mask):
        log_prob, entropy, _ = _EVALUATE_OP(logits, actions, mask, nvec)
        return log_prob, entropy
    rows = _rows("categorical_evaluate", logits)
    if logits.requires_grad and torch.is_grad_enabled():
        return _Evaluate.apply(logits, actions, mask, nvec)  # type: ignore[no-any-return, no-untyped-call]
    log_prob, entropy = new_real(logits, rows), new_real(logits, rows)
    _core.categorical_evaluate(logits, actions, mask, nvec, log_prob, entropy, None)
    return log_prob, entropy

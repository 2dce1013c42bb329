"""`reverse_scan`: the recurrence under every estimator, bare and differentiable."""

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


def _allocate(a: Tensor, b: Tensor, *_: object) -> Tensor:
    require_tensor("reverse_scan", "b", b)
    return b.new_empty(b.shape)


def _allocate_gradients(
    grad: Tensor, a: Tensor, y: Tensor, last: Tensor | None, time_major: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows = a.shape[1 if time_major else 0]
    return a.new_empty(a.shape), grad.new_empty(a.shape), (grad if last is None else last).new_empty(rows)


_ROAD = register_estimator(
    "reverse_scan",
    "Tensor a, Tensor b, Tensor? last=None, bool time_major=False",
    ("Tensor(a!) out",),
    _core.reverse_scan,
    _allocate,
)
register_estimator(
    "reverse_scan_backward",
    "Tensor grad, Tensor a, Tensor y, Tensor? last, bool time_major",
    ("Tensor(a!) grad_a", "Tensor(b!) grad_b", "Tensor(c!) grad_last"),
    _core.reverse_scan_backward,
    _allocate_gradients,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, _, last, time_major = inputs
    ctx.save_for_backward(a, output, last)
    ctx.time_major = time_major


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    a, y, last = ctx.saved_tensors
    grad_a, grad_b, grad_last = torch.ops.hotloop.reverse_scan_backward(grad, a, y, last, ctx.time_major)
    return grad_a, grad_b, None if last is None else grad_last, None


_DIFFERENTIABLE = register_gradient("reverse_scan", _setup_context, _backward)


def reverse_scan(
    a: Tensor,
    b: Tensor,
    last: Tensor | None = None,
    *,
    time_major: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """The affine recurrence that runs from the last step to the first::

        y[t] = a[t] * y[t+1] + b[t],    y[T] = last, or 0

    Every estimator of this package is this with coefficients of its own; with this op you write yours.
    Differentiable in `a`, `b` and `last`, once: the gradient is the same recurrence run from the first step
    to the last, natively. NaN and inf follow the formula (0 * NaN is NaN: a zero in `a` does not cut).

    Args:
        a: `[N, T]` (`[T, N]` with `time_major`), floating.
        b: the same shape, floating. The arithmetic is done in its dtype; in float32 for bfloat16 and float16,
            and the result is rounded once, as `.to()` rounds.
        last: `[N]`, floating: what follows the last step.
        time_major: whether the first dimension is time.
        out: the same shape, dtype of `b`, memory of its own; only where no input requires grad.

    Returns:
        `y`, of the shape and dtype of `b`: `out`, or a new tensor.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has an unsupported dtype.
        ValueError: shapes differ, `out` overlaps an input, or is given where an input requires grad.
    """
    if wants_gradient(a, b, last):
        refuse_out("reverse_scan", out)
        result: Tensor = _DIFFERENTIABLE(a, b, last, time_major)
        return result
    if out is None:
        out = _allocate(a, b)
    if _core.reverse_scan(a, b, last, time_major, out) is NotImplemented:
        _ROAD(a, b, last, time_major, out)
    return out

"""`tanh`: the hyperbolic tangent, in a quarter of the time that torch's takes on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hotloop import _core
from hotloop.ops._register import (
    is_traced,
    refuse_out,
    register_functional,
    require_tensor,
    wants_gradient,
)


def _allocate(x: Tensor) -> tuple[Tensor]:
    require_tensor("tanh", "x", x)
    return (torch.empty_like(x),)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    return torch.ops.aten.tanh_backward(grad, ctx.saved_tensors[0])  # type: ignore[no-any-return]


_OP = register_functional(
    "tanh", "Tensor x", 1, _core.tanh, _allocate, setup_context=_setup_context, backward=_backward
)


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        _core.tanh(x, out)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _backward(ctx, grad)


def tanh(x: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The hyperbolic tangent of every element, differentiable (once) in `x`.

    torch's own kernel computes it to half a unit in the last place; at the sizes of a policy that takes
    longer than the matrix product before it. This one is within 3 units, the same bits on every instruction
    set and for any number of threads:

        tanh x = e / (e + 2)  with  e = exp(2 |x|) - 1,  and the sign of x

    Args:
        x: any shape and strides; float32, float64, bfloat16 or float16, the last two computed in float32.
        out: of the shape and dtype of `x`, to write into; may be `x` itself.

    Returns:
        tanh(x), a new tensor or `out`; 1 and -1 at the infinities, NaN for NaN.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has an unsupported dtype.
        ValueError: `out` has another shape, overlaps `x` without being it, or is given where `x` requires
            grad.
    """
    if wants_gradient(x):
        refuse_out("tanh", out)
        return _OP(x) if is_traced(x) else _Tanh.apply(x)  # type: ignore[no-any-return, no-untyped-call]
    if is_traced(x, out):
        if out is None:
            return _OP(x)  # type: ignore[no-any-return]
        return out.copy_(_OP(x))
    if out is None:
        (out,) = _allocate(x)
    _core.tanh(x, out)
    return out

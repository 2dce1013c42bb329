"""`PixelLinear`: a linear layer on bytes, multiplied as bytes or made floats a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hotloop import ops
from hotloop.policies.activations import scaled

# Floats that are made at once for each thread: 640 kB, which stay in a core's second level of cache until the
# product has read them. Between 128 and 1,024 rows of 600 the time is the same within 3 %.
_FLOATS = 160 * 1024
_ROWS = 32  # blocks are multiples of it
# Bytes below which what a node in Python costs autograd is more than the product gains.
_FEW = 1 << 16
# Rows from which on the product of bytes repays writing the weights as digits, whatever the layer's size.
_BYTE_ROWS = 64


class PixelLinear(nn.Linear):
    """`torch.nn.Linear` on uint8 observations divided by 255: ``linear(pixels / 255)``.

    What it saves is the tensor of floats, four times as large as the bytes: written, read by the product, and
    kept for the gradient of the weights. Where the processor multiplies bytes (AVX-512 VNNI), 64 rows or
    more take `hotloop.ops.pixel_linear` and `pixel_linear_grad`. Elsewhere a block of rows at a time is made
    floats and multiplied while it is still in the cache, in the backward pass once more. Either way results
    agree with ``linear(pixels / 255)`` to float32 rounding.

    Left to that formula are tensors that are not in host memory, few rows that want a gradient, weights that
    are not float32, autocast, `torch.compile` and function transforms. What is computed in blocks can be
    differentiated once. Inputs of another dtype than uint8 are multiplied as they are, by `torch.nn.Linear`.

    Parameters are those of `torch.nn.Linear`, by name and shape.
    """

    @classmethod
    def of(cls, linear: nn.Linear) -> PixelLinear:
        """A layer with the parameters of `linear`, the very same tensors."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.in_features, made.out_features = linear.in_features, linear.out_features
        made.weight, made.bias = linear.weight, linear.bias
        return made.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """uint8 ``[..., in_features]`` (or floats, which are not divided) to float32 ``[..., out_features]``.

        Raises RuntimeError, torch's, where the last size is not `in_features`."""
        weight, bias = self.weight, self.bias
        if input.dtype != torch.uint8:
            return F.linear(input, weight, bias)
        wants_gradient = torch.is_grad_enabled() and (
            weight.requires_grad or (bias is not None and bias.requires_grad)
        )
        if (
            not input.is_cpu
            or input.shape[-1:] != weight.shape[1:]
            or not (weight.is_cpu and weight.dtype == torch.float32)
            or (wants_gradient and input.numel() < _FEW)
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()
            or torch._C._are_functorch_transforms_active()
        ):
            return F.linear(scaled(input), weight, bias)
        rows = input.reshape(-1, input.shape[-1])
        product = _Product.apply if wants_gradient else _product
        out: Tensor = product(rows, weight, bias)
        return out.view(*input.shape[:-1], weight.shape[0])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows)
        return _product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        (rows,) = ctx.saved_tensors
        _, needs_weight, needs_bias = ctx.needs_input_grad
        grad_weight = _gradient(rows, grad) if needs_weight else None
        return None, grad_weight, grad.sum(0) if needs_bias else None


def _blocks(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the rows with their floats, in memory that the next block overwrites."""
    count, width = rows.shape
    size = max(_FLOATS // max(width, 1) // _ROWS, 1) * _ROWS * torch.get_num_threads()
    floats = torch.empty(min(size, count), width)
    for start in range(0, count, size):
        part = rows[start : start + size]
        yield slice(start, start + size), ops.scale_pixels(part, out=floats[: len(part)])


def _as_bytes(rows: Tensor) -> bool:
    return len(rows) >= _BYTE_ROWS and rows.shape[1] <= ops.PIXEL_LINEAR_WIDTH and ops.pixel_linear_is_fast()


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = torch.empty(len(rows), len(weight))
    if _as_bytes(rows):
        return ops.pixel_linear(rows, weight, bias, out=out)
    transposed = weight.t()
    for block, floats in _blocks(rows):
        if bias is None:
            torch.mm(floats, transposed, out=out[block])
        else:
            torch.addmm(bias, floats, transposed, out=out[block])
    return out


def _gradient(rows: Tensor, grad: Tensor) -> Tensor:
    """Of the weights: the sum over blocks, one after the other."""
    if _as_bytes(rows):
        return ops.pixel_linear_grad(rows, grad)
    total = torch.zeros(grad.shape[1], rows.shape[1])
    for block, floats in _blocks(rows):
        total.addmm_(grad[block].t(), floats)
    return total

"""`pixel_linear` and its gradient: a linear layer on bytes, in whole numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from hotloop import _core
from hotloop.ops._register import is_traced, register, require_tensor

PIXEL_LINEAR_WIDTH = 65_793
"""The most in_features of `pixel_linear`: above it the sum of one digit's products may leave int32."""


def _allocate(pixels: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    require_tensor("pixel_linear", "pixels", pixels)
    require_tensor("pixel_linear", "weight", weight)
    if pixels.dim() != 2 or weight.dim() != 2:  # the op says what is wrong with it
        return pixels.new_empty(0, dtype=torch.float32)
    return pixels.new_empty(pixels.shape[0], weight.shape[0], dtype=torch.float32)


def _allocate_grad(pixels: Tensor, grad: Tensor) -> Tensor:
    require_tensor("pixel_linear_grad", "pixels", pixels)
    require_tensor("pixel_linear_grad", "grad", grad)
    if pixels.dim() != 2 or grad.dim() != 2:
        return pixels.new_empty(0, dtype=torch.float32)
    return pixels.new_empty(grad.shape[1], pixels.shape[1], dtype=torch.float32)


def _whole_rows(op: str, name: str, x: Tensor) -> Tensor:
    require_tensor(op, name, x)
    return x if x.dim() != 2 or x.stride(1) == 1 or x.shape[1] <= 1 else x.contiguous()


_OUT_OP = register(
    "pixel_linear",
    "Tensor pixels, Tensor weight, Tensor? bias",
    ("Tensor(a!) out",),
    _core.pixel_linear,
    _allocate,
)

_GRAD_OUT_OP = register(
    "pixel_linear_grad",
    "Tensor pixels, Tensor grad",
    ("Tensor(a!) out",),
    _core.pixel_linear_grad,
    _allocate_grad,
)


def pixel_linear(
    pixels: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None
) -> Tensor:
    """``pixels / 255 @ weight.T + bias``, the bytes multiplied as bytes.

    A weight is rounded to a multiple of a power of two, at most 2⁻²² of the largest weight of its output,
    and written as three digits of eight bits; their products with the pixels and the sums of these are exact.
    What is left is the rounding of the weights, half a unit in the last place of the largest, and that of the
    result, so that errors are of the size of those of a product in float32: measured, 0.5 to 0.9 of them with
    random bytes, up to 2.3 times with nine pixels in ten black. Results are the same to the last bit on every
    processor, for any number of threads and rows. Quantised inference multiplies like this, with one digit
    (Jacob et al. 2018).

    Fast where `pixel_linear_is_fast`: AVX-512 VNNI multiplies 64 pairs of bytes in the time of 16 floats, and
    the whole takes 0.55 to 0.65 of the time of the product in float32; elsewhere it takes much more. Not
    differentiable: `hotloop.policies.PixelLinear` is.

    Args:
        pixels: uint8 `[N, in_features]`, at most `PIXEL_LINEAR_WIDTH` in_features.
        weight: float32 `[out_features, in_features]`. An output with inf or NaN among its weights is the sum
            in float32.
        bias: float32 `[out_features]`, or None.
        out: float32 `[N, out_features]`, its last dimension contiguous, to write into. Pixels and weights
            whose last dimension is not are copied.

    Returns:
        A new tensor, or `out`.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has another dtype.
        ValueError: a shape does not fit, there are too many in_features, or `out` overlaps an argument or
            itself.
    """
    if out is None:
        out = _allocate(pixels, weight, bias)
    arguments = (
        _whole_rows("pixel_linear", "pixels", pixels),
        _whole_rows("pixel_linear", "weight", weight),
        bias,
    )
    if is_traced(*arguments, out) or _core.pixel_linear(*arguments, out) is NotImplemented:
        _OUT_OP(*arguments, out=out)
    return out


def pixel_linear_grad(pixels: Tensor, grad: Tensor, *, out: Tensor | None = None) -> Tensor:
    """``grad.T @ (pixels / 255)``: the gradient of `pixel_linear` by its weights, from that by its results.

    In whole numbers as `pixel_linear` is: of every 512 rows the gradients of an output are rounded to
    multiples of a power of two, at most 2⁻²² of the largest of them; their products with the pixels and the
    sums of these are exact, and the blocks' sums are added up in float32. Errors are of the size of those of
    the product in float32 (measured on random numbers: 1.2 of them on average, 0.8 at most), the bits the
    same on every processor and for any number of threads. With AVX-512 VNNI it takes 0.7 of the time of that
    product, elsewhere more.

    Args:
        pixels: uint8 `[N, in_features]`.
        grad: float32 `[N, out_features]`. An output with inf or NaN among its gradients is the sum in
            float32.
        out: float32 `[out_features, in_features]`, its last dimension contiguous, to write into. Pixels and
            gradients whose last dimension is not are copied.

    Returns:
        A new tensor, or `out`.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has another dtype.
        ValueError: a shape does not fit, or `out` overlaps an argument or itself.
    """
    if out is None:
        out = _allocate_grad(pixels, grad)
    op = "pixel_linear_grad"
    arguments = _whole_rows(op, "pixels", pixels), _whole_rows(op, "grad", grad)
    if is_traced(*arguments, out) or _core.pixel_linear_grad(*arguments, out) is NotImplemented:
        _GRAD_OUT_OP(*arguments, out=out)
    return out


def pixel_linear_is_fast() -> bool:
    """Whether the processor multiplies bytes (AVX-512 VNNI), with AVX-512 the instruction set in use."""
    return _core.has_byte_products()

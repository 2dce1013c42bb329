"""`scale_pixels`: uint8 observations to floats between 0 and 1 in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from hotloop import _core
from hotloop.ops._register import is_traced, register, require_tensor


def _allocate(pixels: Tensor) -> Tensor:
    require_tensor("scale_pixels", "pixels", pixels)
    return torch.empty_like(pixels, dtype=torch.float32)


_OUT_OP = register("scale_pixels", "Tensor pixels", ("Tensor(a!) out",), _core.scale_pixels, _allocate)


def scale_pixels(pixels: Tensor, *, out: Tensor | None = None) -> Tensor:
    """``pixels.to(torch.float32) / 255``, to the last bit, without the floats in between.

    Args:
        pixels: uint8, any shape and strides.
        out: float32 of that shape, to write into.

    Returns:
        A new tensor, or `out`.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has another dtype.
        ValueError: `out` has another shape, or overlaps `pixels` or itself.
    """
    if out is None:
        out = _allocate(pixels)
    if is_traced(pixels, out) or _core.scale_pixels(pixels, out) is NotImplemented:
        _OUT_OP(pixels, out=out)
    return out

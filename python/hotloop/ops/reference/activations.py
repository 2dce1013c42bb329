"""Elementwise functions of networks and their inputs."""

from __future__ import annotations

import torch
from torch import Tensor


def tanh(x: Tensor) -> Tensor:
    """See `hotloop.ops.tanh`: from exp(2 |x|) - 1 in float64, rounded once."""
    grown = torch.expm1(2.0 * x.to(torch.float64).abs())
    ratio = torch.where(grown.isinf(), 1.0, grown / (grown + 2.0))
    return torch.copysign(ratio, x.to(torch.float64)).to(x.dtype)


def scale_pixels(pixels: Tensor) -> Tensor:
    """See `hotloop.ops.scale_pixels`."""
    return pixels.to(torch.float32) / 255.0

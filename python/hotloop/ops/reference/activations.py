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


def pixel_linear(pixels: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See `hotloop.ops.pixel_linear`, of which this has the bits where all weights are finite."""
    largest = weight.abs().amax(1, keepdim=True).double() if weight.shape[1] else weight.new_zeros(1).double()
    # The power of two with which the largest weight lies between 2^22 and 2^23, or half of it.
    shift = (23 - torch.frexp(largest.clamp_min(2.0**-126)).exponent).clamp_max(126)
    shift = shift - (largest * 2.0**shift > 127 * 65_536 + 127 * 256 + 127 - 0.5).int()
    whole = (weight.double() * 2.0**shift).round()
    sums = []
    for _ in range(3):  # digits from -128 to 127
        digit = (whole + 128).remainder(256) - 128
        whole = (whole - digit) / 256
        sums.append((pixels.double() @ digit.t()).float())
    scale = (2.0**-shift).float().reshape(-1)
    out = (sums[2] * 65_536 + (sums[1] * 256 + sums[0])) * torch.tensor(1 / 255) * scale
    return out if bias is None else out + bias

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


def _digits(x: Tensor, dim: int) -> tuple[list[Tensor], Tensor]:
    """Three digits of -128 to 127 for numbers that share the largest along `dim`, and the unit they count."""
    largest = x.abs().amax(dim, keepdim=True) if x.shape[dim] else x.sum(dim, keepdim=True)
    # The power of two with which the largest lies between 2^22 and 2^23, or half of it.
    shift = (23 - torch.frexp(largest.double().clamp_min(2.0**-126)).exponent).clamp_max(126)
    shift = shift - (largest.double() * 2.0**shift > 127 * 65_536 + 127 * 256 + 127 - 0.5).int()
    whole = (x.double() * 2.0**shift).round()
    digits = []
    for _ in range(3):
        digits.append((whole + 128).remainder(256) - 128)
        whole = (whole - digits[-1]) / 256
    return digits, (2.0**-shift).float()


def _joined(sums: list[Tensor], unit: Tensor) -> Tensor:
    low, middle, high = (s.float() for s in sums)
    return (high * 65_536 + (middle * 256 + low)) * torch.tensor(1 / 255) * unit


def pixel_linear(pixels: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See `hotloop.ops.pixel_linear`, of which this has the bits where all weights are finite."""
    digits, unit = _digits(weight, 1)
    out = _joined([pixels.double() @ digit.t() for digit in digits], unit.t())
    return out if bias is None else out + bias


def pixel_linear_grad(pixels: Tensor, grad: Tensor) -> Tensor:
    """See `hotloop.ops.pixel_linear_grad`, of which this has the bits where all gradients are finite."""
    out = torch.zeros(grad.shape[1], pixels.shape[1])
    for rows, grads in zip(pixels.split(512), grad.split(512), strict=True):
        digits, unit = _digits(grads, 0)
        out += _joined([digit.t() @ rows.double() for digit in digits], unit.t())
    return out

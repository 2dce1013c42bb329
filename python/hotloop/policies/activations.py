"""`Tanh` and `Pixels`: modules with hotloop's kernels on the CPU."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from hotloop import ops

_Module = TypeVar("_Module", bound=nn.Module)

# Elements below which what a node in Python costs autograd is more than the kernel gains.
_FEW = 1 << 13


class Tanh(nn.Tanh):
    """`torch.nn.Tanh`, computed by `hotloop.ops.tanh` (3 units in the last place) where that is faster.

    Left to torch are tensors that are not in host memory, few elements that want a gradient, code under
    `torch.compile`, which fuses torch's own, and function transforms (`torch.func`). What is computed by
    hotloop can be differentiated once.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The hyperbolic tangent of every element."""
        if (
            not input.is_cpu
            or not input.is_floating_point()
            or (input.requires_grad and input.numel() < _FEW and torch.is_grad_enabled())
            or torch.compiler.is_compiling()
            or torch._C._are_functorch_transforms_active()
        ):
            return torch.tanh(input)
        return ops.tanh(input)


class Pixels(nn.Module):
    """uint8 observations to float32 between 0 and 1: ``pixels / 255``, by `hotloop.ops.scale_pixels` in host
    memory and outside of `torch.compile` and function transforms; the bits are the same everywhere."""

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 of the shape of `pixels`."""
        return scaled(pixels)


def scaled(pixels: Tensor) -> Tensor:
    """What `Pixels` gives."""
    if (
        pixels.is_cpu
        and pixels.dtype == torch.uint8
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    ):
        return ops.scale_pixels(pixels)
    return pixels.to(torch.float32) / 255.0


def native_activations(module: _Module) -> _Module:
    """Put a `Tanh` in the place of every `torch.nn.Tanh` inside `module`, and return `module`.

    Parameters, their names and `state_dict` stay as they are; so do subclasses of `torch.nn.Tanh`, and those
    with hooks, whose owner may count on them. A module that is itself a `torch.nn.Tanh` is returned as a new
    one.
    """
    if _is_plain_tanh(module):
        return Tanh()  # type: ignore[return-value]
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if _is_plain_tanh(child):
                setattr(parent, name, Tanh().train(child.training))
    return module


def _is_plain_tanh(module: nn.Module) -> bool:
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return type(module) is nn.Tanh and not any(hooks)

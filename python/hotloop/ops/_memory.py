"""Memory for buffers that live long."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hotloop import _core

# Below this, huge pages (2 MiB on x86-64) would save little.
_LARGE_BYTES = 1 << 22


def empty_buffer(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """`torch.empty`, outside of inference mode, and on huge pages where it is large and the system has
    them."""
    with torch.inference_mode(False):
        buffer = torch.empty(tuple(shape), dtype=dtype, device=device)
    if buffer.device.type == "cpu" and math.prod(shape) * buffer.element_size() >= _LARGE_BYTES:
        _core.advise_huge_pages(buffer)  # before the first touch: it concerns pages that are yet to come
    return buffer


def zeros_buffer(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """`torch.zeros` in the memory of `empty_buffer`."""
    return empty_buffer(shape, dtype, device).zero_()

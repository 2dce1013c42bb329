"""Memory for buffers that live long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    if _is_large(buffer):
        _core.advise_huge_pages(buffer, False)  # before the first touch: pages that are yet to come
    return buffer


def zeros_buffer(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """`torch.zeros` in the memory of `empty_buffer`."""
    return empty_buffer(shape, dtype, device).zero_()


def move_to_huge_pages(buffers: Iterable[Tensor]) -> None:
    """Memory of others that is in use already, where it is large and the system can (Linux 6.1 and
    later): takes about a second for four gigabytes, once. Contents and addresses stay."""
    for buffer in buffers:
        if type(buffer) is Tensor and _is_large(buffer):
            _core.advise_huge_pages(buffer.detach(), True)


def _is_large(buffer: Tensor) -> bool:
    return buffer.device.type == "cpu" and buffer.numel() * buffer.element_size() >= _LARGE_BYTES

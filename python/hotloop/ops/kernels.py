"""`runs_on`: whether an op has a kernel for a device."""

from __future__ import annotations

import importlib
from functools import cache

import torch


def runs_on(op: str, device: torch.device) -> bool:
    """Whether `hotloop.ops.<op>` takes tensors of a device: every op takes those in host memory, those with a
    CUDA kernel (docs/cuda.md has the list) CUDA tensors, where hotloop was built with CUDA."""
    return device.type == "cpu" or (device.type == "cuda" and op in _cuda_ops())


@cache
def _cuda_ops() -> frozenset[str]:
    try:
        module = importlib.import_module("hotloop._cuda")
    except ImportError:  # `hotloop doctor` says why
        return frozenset()
    return frozenset(vars(module))

"""`determinism`: in which order estimators add on a CUDA device."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal


@contextmanager
def determinism(order: Literal["strict", "fast"]) -> Iterator[None]:
    """Chooses the order of additions for estimators on a CUDA device; on the CPU there is only one.

    Every estimator gives the same bits in every run, whatever the order. `"strict"`: those of the CPU, by the
    kernels that walk each row step by step. `"fast"`, the default: few rows or long ones are composed in a
    tree, which rounds otherwise; the tree's shape depends on the sizes alone. float64, gradients and rows
    that are many or short take the CPU's order anyway.

    Args:
        order: `"strict"` or `"fast"`, for the calls inside of the `with` block, of all threads.

    Raises:
        ValueError: `order` is something else.
    """
    if order not in ("strict", "fast"):
        raise ValueError(f"determinism: order must be 'strict' or 'fast', got {order!r}")
    try:
        native: Any = importlib.import_module("hotloop._cuda")
    except ModuleNotFoundError:  # built without CUDA: the CPU's order is the only one
        yield
        return
    before = native.set_exact(order == "strict")
    try:
        yield
    finally:
        native.set_exact(before)

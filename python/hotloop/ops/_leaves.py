"""What the plans share: the addresses of leaves, and conversion on the way as the native kernel does it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

LeafKey = str | tuple[str, ...]


def leaf_path(key: LeafKey) -> tuple[str, ...]:
    """The keys that lead to a leaf of a nested TensorDict."""
    return (key,) if isinstance(key, str) else tuple(key)


def leaf_at(tree: Any, path: tuple[str, ...]) -> Tensor:
    """The leaf that the keys lead to."""
    for key in path:
        tree = tree[key]
    leaf: Tensor = tree
    return leaf


def converted(source: Tensor, dtype: torch.dtype, factor: float) -> Tensor:
    """`source * factor` in `dtype`, rounded once: the product is taken in float32, in float64 where either
    side is float64."""
    if factor == 1.0:
        return source.to(dtype)
    wide = torch.float64 if torch.float64 in (source.dtype, dtype) else torch.float32
    return (source.to(wide) * torch.tensor(factor, dtype=wide)).to(dtype)


def checked_scales(
    name: str, targets: Mapping[Any, Tensor], scales: Mapping[Any, float] | None
) -> dict[Any, float]:
    """The scales as floats. KeyError for an unknown key, TypeError for one of an integer target."""
    for key in scales or {}:
        if key not in targets:
            raise KeyError(f"{name}: scales must be for some of {list(targets)}, got {key!r}")
        if not targets[key].dtype.is_floating_point:
            raise TypeError(
                f"{name}: {key!r} must be of a floating dtype to be scaled, got {targets[key].dtype}"
            )
    return {key: float(factor) for key, factor in (scales or {}).items()}


def require_tensors(where: str, objects: Iterable[object]) -> None:
    """TypeError for the first object that is no tensor: for the ways through torch, which would find that out
    by an attribute that is missing, and maybe half-way."""
    for each in objects:
        if not isinstance(each, Tensor):
            raise TypeError(f"{where} must be a torch.Tensor, got {type(each).__name__}")

"""Descriptions of what a rollout stores: key -> (shape per agent and step, dtype).

A spec is a plain, possibly nested, ``dict[str, (shape, dtype)]``::

    {"env_obs": ((84, 84), torch.uint8), "actions": ((), torch.int32), "memory": {"h": ((8,), torch.float32)}}

Objects that behave like torchrl's ``Composite`` (``keys()`` and indexing, whose leaves have ``.shape`` and
``.dtype``) are accepted wherever a spec is; torchrl itself is never imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, Union

import torch
from tensordict import TensorDict
from torch import Tensor

SpecLeaf: TypeAlias = tuple[torch.Size, torch.dtype]
NestedSpec: TypeAlias = dict[str, Union[SpecLeaf, "NestedSpec"]]
# A leaf's address, spelled as TensorDict spells it: "a" at the top level, ("a", "b") below it.
Key: TypeAlias = str | tuple[str, ...]


def key_name(key: Key) -> str:
    """The key as error messages print it: ``memory.h`` for ``("memory", "h")``."""
    return key if isinstance(key, str) else ".".join(key)


def normalize_spec(spec: Any) -> NestedSpec:
    """Any accepted description -> nested ``dict[str, (torch.Size, torch.dtype)]``, in the order given.

    ``spec``: a mapping or a Composite-like object. Its values are ``(shape, dtype)`` pairs (shape: an int
    or a sequence of ints, of one agent at one step), objects with ``.shape`` and ``.dtype``, or themselves
    specs. Keys are strings, or tuples of strings that address a nested leaf.

    Raises TypeError for anything else, ValueError for a negative size and for a leaf that is described twice.
    """
    if not _is_branch(spec):
        raise TypeError(f"normalize_spec: spec must be a dict or Composite-like, got {type(spec).__name__}")
    normal: NestedSpec = {}
    _fill(normal, spec, ())
    return normal


def spec_leaves(spec: NestedSpec, prefix: tuple[str, ...] = ()) -> Iterator[tuple[Key, SpecLeaf]]:
    """Every ``(key, (shape, dtype))`` of a normalized spec, depth first."""
    for name, value in spec.items():
        path = (*prefix, name)
        if isinstance(value, dict):
            yield from spec_leaves(value, path)
        else:
            yield (path if len(path) > 1 else name), value


def merge_specs(*specs: Any) -> NestedSpec:
    """One spec with the keys of all; where several describe a top-level key, the last one wins."""
    merged: NestedSpec = {}
    for spec in specs:
        merged.update(normalize_spec(spec))
    return merged


def zeros_from_spec(
    spec: NestedSpec,
    batch_size: tuple[int, ...],
    device: torch.device,
    allocate: Callable[..., Tensor] | None = None,
) -> TensorDict:
    """A TensorDict of zeros: every leaf ``[*batch_size, *shape]`` contiguous, on ``device``.

    ``allocate(shape, dtype=, device=)`` makes the leaves instead of `torch.zeros`.
    """
    make = torch.zeros if allocate is None else allocate
    td = TensorDict({}, batch_size=batch_size, device=device)
    for key, (shape, dtype) in spec_leaves(spec):
        td[key] = make((*batch_size, *shape), dtype=dtype, device=device)
    return td


def nest(flat: Mapping[Key, Any]) -> dict[str, Any]:
    """``{("a", "b"): x, "c": y}`` -> ``{"a": {"b": x}, "c": y}``, as TensorDict's constructor takes it."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, name = (key,) if isinstance(key, str) else key
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = value
    return tree


def _is_branch(value: Any) -> bool:
    behaves = callable(getattr(value, "keys", None)) and hasattr(value, "__getitem__")
    return isinstance(value, Mapping) or behaves


def _fill(target: NestedSpec, spec: Any, prefix: tuple[str, ...]) -> None:
    for key in list(spec.keys()):
        path = key if isinstance(key, tuple) else (key,)
        if not path or not all(isinstance(part, str) for part in path):
            raise TypeError(f"normalize_spec: keys must be strings or tuples of strings, got {key!r}")
        full = (*prefix, *path)
        value = spec[key]
        branch = target
        for part in path[:-1]:
            child = branch.setdefault(part, {})
            if not isinstance(child, dict):
                raise ValueError(f"normalize_spec: {key_name(full)!r} lies below a leaf of the same name")
            branch = child
        name = path[-1]
        if _is_branch(value):
            child = branch.setdefault(name, {})
            if not isinstance(child, dict):
                raise ValueError(f"normalize_spec: duplicate key {key_name(full)!r}")
            _fill(child, value, full)
        elif name in branch:
            raise ValueError(f"normalize_spec: duplicate key {key_name(full)!r}")
        else:
            branch[name] = _leaf(value, key_name(full))


def _leaf(value: Any, name: str) -> SpecLeaf:
    if isinstance(value, (tuple, list)) and len(value) == 2:
        shape, dtype = value
    else:
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, int) and not isinstance(shape, bool):
        shape = (shape,)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(
            f"normalize_spec: {name!r} must be (shape, torch.dtype) or have .shape and .dtype, got {value!r}"
        )
    try:
        size = torch.Size(shape)
    except TypeError as error:
        raise TypeError(
            f"normalize_spec: shape of {name!r} must be an int or a sequence of ints, got {shape!r}"
        ) from error
    if any(extent < 0 for extent in size):
        raise ValueError(f"normalize_spec: shape of {name!r} must have no negative size, got {tuple(size)}")
    return size, dtype

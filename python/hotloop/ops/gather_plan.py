"""`GatherPlan`: rows of all leaves of a buffer into minibatch memory that is used again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hotloop import _core
from hotloop.ops._leaves import LeafKey, checked_scales, converted, leaf_at, leaf_path, require_tensors
from hotloop.ops._memory import empty_buffer


class GatherPlan:
    """Gathers rows of the leaves `keys` into the tensors `out`.

    The leaves are looked up anew at every call, so one that was replaced is read where it is now; one whose
    shape no longer fits raises.

    Args:
        out: for every leaf key (a tuple for nested ones) a CPU tensor `[k, ...]` with memory of its own. A
            dtype other than the leaf's converts on the way.
        scales: for some of the keys a factor, for instance `1 / 255` of uint8 pixels; floating `out` only.
            The product is taken in float32 (float64 where either side is) and rounded once.

    Attributes:
        out: the tensors by key, overwritten by every call.

    Raises:
        KeyError: a scale for a key that `out` lacks. TypeError: a scale for an integer tensor.
    """

    def __init__(
        self, out: Mapping[LeafKey, Tensor], *, scales: Mapping[LeafKey, float] | None = None
    ) -> None:
        self.out = dict(out)
        self.scales = checked_scales("GatherPlan", self.out, scales)
        factors = [self.scales.get(key, 1.0) for key in self.out]
        self._native = _core.GatherPlan(tuple(map(leaf_path, self.out)), tuple(self.out.values()), factors)

    @classmethod
    def allocate(
        cls,
        leaves: Mapping[LeafKey, Tensor],
        count: int,
        *,
        dtypes: Mapping[LeafKey, torch.dtype] | None = None,
        scales: Mapping[LeafKey, float] | None = None,
    ) -> GatherPlan:
        """A plan with new tensors for `count` rows of every leaf `[S, ...]`, of the leaf's dtype unless
        `dtypes` names another. KeyError for a key that `leaves` lacks."""
        wanted = dict(dtypes or {})
        for key in wanted:
            if key not in leaves:
                raise KeyError(f"GatherPlan: dtypes must be for some of {list(leaves)}, got {key!r}")
        out = {
            key: empty_buffer((count, *leaf.shape[1:]), wanted.get(key, leaf.dtype))
            for key, leaf in leaves.items()
        }
        return cls(out, scales=scales)

    def gather(self, source: Mapping[Any, Any] | Sequence[Tensor] | Any, indices: Tensor) -> None:
        """`out[key][j] = source[key][indices[j]]` for every key, times its scale.

        Args:
            source: a TensorDict or dict with the plan's keys, or a list of tensors in their order; each
                `[S, ...]` with one common S.
            indices: `[k]` int64, 0 ... S-1; repeats are allowed. Checked before anything is written.

        Raises:
            KeyError: the source lacks a key. IndexError: an index outside [0, S).
            TypeError, ValueError: a tensor of a wrong kind or shape.
        """
        if self._native.gather(source, indices):
            return
        # A tensor subclass, which torch's dispatcher must see. Everything is read before anything is written.
        listed = isinstance(source, (list, tuple))
        leaves = list(source) if listed else [leaf_at(source, leaf_path(key)) for key in self.out]
        require_tensors("GatherPlan.gather: each target", self.out.values())
        require_tensors("GatherPlan.gather: each source", leaves)
        require_tensors("GatherPlan.gather: indices", [indices])
        rows = [leaf.index_select(0, indices) for leaf in leaves]
        for (key, out), each in zip(self.out.items(), rows, strict=True):
            if each.shape != out.shape:
                raise ValueError(
                    f"GatherPlan.gather: out[{key}] must be of shape {list(each.shape)}, "
                    f"got {list(out.shape)}"
                )
        for (key, out), each in zip(self.out.items(), rows, strict=True):
            out.copy_(converted(each, out.dtype, self.scales.get(key, 1.0)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.out, self.scales)


def _restore(out: dict[LeafKey, Tensor], scales: dict[LeafKey, float]) -> GatherPlan:
    return GatherPlan(out, scales=scales)

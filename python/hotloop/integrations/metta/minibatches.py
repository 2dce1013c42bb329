"""Rows of a buffer as a minibatch: views where they lie in order, one native call where they do not."""

from __future__ import annotations

from collections.abc import Mapping
from operator import is_not
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from hotloop import ops
from hotloop.entries import flat_tensordict, plain_entries
from hotloop.ops._memory import empty_buffer
from hotloop.spec import Key

_ADVANTAGES: Key = ("", "advantages")  # no buffer has an entry of this name


class MinibatchRows:
    """Takes `[B, T]` out of a buffer `[S, T]`.

    Args:
        rows, horizon: B and T.
        device: of the buffer.
        copies: every minibatch gets memory of its own. Otherwise rows in order are views, and drawn ones lie
            in memory that the next minibatch overwrites.
    """

    def __init__(self, rows: int, horizon: int, device: torch.device, copies: bool) -> None:
        self._rows = rows
        self._size = torch.Size((rows, horizon))
        self._device = device
        self.copies = copies
        self._plan: ops.GatherPlan | None = None
        self._planned: list[Tensor] = []  # the leaves that the plan was last found fit for

    def in_order(self, buffer: TensorDict, advantages: Tensor | None, first: int) -> tuple[TensorDict, Any]:
        """Rows `first` to `first + B`, and those of `advantages`."""
        rows = slice(first, first + self._rows)
        leaves = plain_entries(buffer)
        if leaves is None:
            minibatch = buffer[rows]
            if self.copies:
                minibatch = minibatch.clone()
        else:
            taken = {key: leaf[rows] for key, leaf in leaves.items()}
            if self.copies:
                taken = {key: leaf.clone() for key, leaf in taken.items()}
            minibatch = flat_tensordict(taken, self._size, self._device)
        if advantages is None:
            return minibatch, None
        return minibatch, advantages[rows].clone() if self.copies else advantages[rows]

    def drawn(self, buffer: TensorDict, advantages: Tensor | None, indices: Tensor) -> tuple[TensorDict, Any]:
        """Rows `indices`, int64 `[B]`, and those of `advantages`."""
        leaves = plain_entries(buffer)
        native = self._device.type == "cpu" and (advantages is None or type(advantages) is Tensor)
        if leaves is None or not native:
            return buffer[indices], None if advantages is None else advantages[indices]
        wanted: dict[Key, Tensor] = dict(leaves)
        if advantages is not None:
            wanted[_ADVANTAGES] = advantages.detach()
        taken = self._gather(wanted, indices)
        chosen = taken.pop(_ADVANTAGES, None)
        return flat_tensordict(taken, self._size, self._device), chosen

    def _gather(self, leaves: Mapping[Key, Tensor], indices: Tensor) -> dict[Key, Tensor]:
        sources = list(leaves.values())
        if self.copies:
            return dict(zip(leaves, ops.gather(sources, indices), strict=True))
        known = self._planned
        if len(known) != len(sources) or any(map(is_not, known, sources)):
            self._plan = self._fitting_plan(leaves)
            self._planned = sources
        assert self._plan is not None
        self._plan.gather(sources, indices)
        return dict(zip(leaves, self._plan.out.values(), strict=True))

    def _fitting_plan(self, leaves: Mapping[Key, Tensor]) -> ops.GatherPlan:
        """The plan, made anew where leaves were added, or have another shape or dtype."""
        old: Mapping[Key, Tensor] = {} if self._plan is None else self._plan.out
        out = {}
        for key, leaf in leaves.items():
            shape, memory = (self._rows, *leaf.shape[1:]), old.get(key)
            fits = memory is not None and memory.shape == shape and memory.dtype == leaf.dtype
            out[key] = memory if memory is not None and fits else empty_buffer(shape, leaf.dtype)
        return ops.GatherPlan(out)

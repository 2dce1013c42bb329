"""Rows of a buffer as a minibatch: views where they lie in order, one native call where they do not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from operator import is_
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from hotloop import ops
from hotloop.entries import TensorDictShell, flat_tensordict, plain_entries
from hotloop.ops._memory import empty_buffer
from hotloop.spec import Key

_ADVANTAGES: Key = ("", "advantages")  # no buffer has an entry of this name
_MOST = 4  # minibatches that memory is kept for; a loop holds two at a time
_use_count: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)


class _Memory:
    """Tensors for the rows of some leaves, and the plan that fills them."""

    def __init__(self, leaves: Mapping[Key, Tensor], rows: int) -> None:
        out = {key: empty_buffer((rows, *leaf.shape[1:]), leaf.dtype) for key, leaf in leaves.items()}
        self.plan = ops.GatherPlan(out)
        self._storages = [tensor.untyped_storage() for tensor in out.values()]
        self._addresses = [storage._cdata for storage in self._storages]
        self._idle = self._holders()

    def _holders(self) -> list[int]:
        assert _use_count is not None
        return list(map(_use_count, self._addresses))

    def fits(self, leaves: Mapping[Key, Tensor]) -> bool:
        out = self.plan.out
        return out.keys() == leaves.keys() and all(
            out[key].dtype == leaf.dtype and out[key].shape[1:] == leaf.shape[1:]
            for key, leaf in leaves.items()
        )

    def is_idle(self) -> bool:
        """Whether nobody holds what was handed out, nor a view of it, nor a graph that will need it."""
        return self._holders() == self._idle


class MinibatchRows:
    """Takes `[B, T]` out of a buffer `[S, T]`.

    Args:
        rows, horizon: B and T.
        device: of the buffer.
        copies: rows in order are copies too, and all memory is new. Otherwise they are views; drawn rows are
            copies either way, in memory that is used again once nobody holds what lay in it.
    """

    def __init__(self, rows: int, horizon: int, device: torch.device, copies: bool) -> None:
        self._rows = rows
        self._on_cpu = device.type == "cpu"
        self.copies = copies
        self.shell = TensorDictShell((rows, horizon), device)
        self.taken_shell = TensorDictShell((rows, horizon), device, _Taken)
        self._memories: list[_Memory] = []
        self._known: tuple[list[Key], list[Tensor], list[torch.dtype]] = ([], [], [])  # which they all fit

    def in_order(self, buffer: TensorDict, advantages: Tensor | None, first: int) -> tuple[TensorDict, Any]:
        """Rows `first` to `first + B`, and those of `advantages`."""
        rows = slice(first, first + self._rows)
        leaves = plain_entries(buffer)
        if leaves is None:
            minibatch = buffer[rows]
        else:
            minibatch = self.shell({key: leaf[rows] for key, leaf in leaves.items()})
        chosen = None if advantages is None else advantages[rows]
        if self.copies:
            return minibatch.clone(), None if chosen is None else chosen.clone()
        return minibatch, chosen

    def drawn(self, buffer: TensorDict, advantages: Tensor | None, indices: Tensor) -> tuple[TensorDict, Any]:
        """Copies of the rows `indices`, int64 `[B]`, and of those of `advantages`."""
        leaves = plain_entries(buffer)
        native = self._on_cpu and (advantages is None or type(advantages) is Tensor)
        if leaves is None or not native:
            return buffer[indices], None if advantages is None else advantages[indices]
        wanted: dict[Key, Tensor] = dict(leaves)
        if advantages is not None:
            wanted[_ADVANTAGES] = advantages.detach() if advantages.requires_grad else advantages
        taken = self.gather(wanted, indices)
        chosen = taken.pop(_ADVANTAGES, None)
        return self.shell(taken), chosen

    def gather(self, leaves: Mapping[Key, Tensor], indices: Tensor) -> dict[Key, Tensor]:
        """Rows of each leaf."""
        sources = list(leaves.values())
        if self.copies or _use_count is None or len(indices) != self._rows:
            return dict(zip(leaves, ops.gather(sources, indices), strict=True))
        all_fit = self._all_fit(leaves, sources)
        for memory in self._memories:
            if (all_fit or memory.fits(leaves)) and memory.is_idle():
                break
        else:
            self._memories = [one for one in self._memories if one.fits(leaves)]
            if len(self._memories) >= _MOST:  # somebody collects minibatches
                return dict(zip(leaves, ops.gather(sources, indices), strict=True))
            memory = _Memory(leaves, self._rows)
            self._memories.append(memory)
        memory.plan.gather(sources, indices)
        # Other tensors on the same memory: they hold it for as long as anybody holds them.
        return {key: tensor.detach() for key, tensor in memory.plan.out.items()}

    def _all_fit(self, leaves: Mapping[Key, Tensor], sources: list[Tensor]) -> bool:
        """Whether all memory is for such leaves, which are mostly the very same as the last time."""
        keys, tensors, dtypes = self._known
        now = [source.dtype for source in sources]
        if now == dtypes and all(map(is_, sources, tensors)) and list(leaves) == keys:
            return True
        fit = all(one.fits(leaves) for one in self._memories)
        self._known = (list(leaves), sources, now) if fit else ([], [], [])
        return fit


class RowBuffer(TensorDict):  # type: ignore[no-untyped-call]
    """A buffer whose rows losses take out themselves: `buffer[rows]`, and its `clone()`, with int64 `[B]`.

    One native call does it, into memory that is used again once nobody holds it; and where the result of
    `buffer[rows]` is nobody's but that of the `clone()` behind it, it is its own clone.
    """

    taken_by: MinibatchRows | None = None

    def __getitem__(self, index: Any) -> Any:
        taker = self.taken_by
        if (
            taker is None
            or type(index) is not Tensor
            or index.dtype != torch.int64
            or index.dim() != 1
            or not index.is_cpu
        ):
            return super().__getitem__(index)
        leaves = self._tensordict
        if not all(type(leaf) is Tensor for leaf in leaves.values()):
            return super().__getitem__(index)
        try:
            rows = taker.gather(leaves, index)
        except IndexError:  # numbers below 0 count from the end
            return super().__getitem__(index)
        size = (len(index), *self.batch_size[1:])
        if size == taker.taken_shell.batch_size:
            return taker.taken_shell(rows)
        taken = _Taken({}, batch_size=size, device=self.device)
        taken._tensordict.update(rows)
        return taken


class _Taken(TensorDict):  # type: ignore[no-untyped-call]
    def clone(self, recurse: bool = True, **kwargs: Any) -> Any:
        if recurse and not kwargs and _CALLERS and sys.getrefcount(self) <= _CALLERS:
            self.__class__ = TensorDict
            return self
        copied: TensorDictBase = super().clone(recurse, **kwargs)
        return flat_tensordict(dict(copied.items()), self.batch_size, self.device)


class _Probe:
    """Counts the references to an object whose method is called, as `_Taken.clone` sees them."""

    def clone(self) -> int:
        return sys.getrefcount(self)


def _callers() -> int:
    """The count for `f().clone()`, whose object nobody else has; 0 where a named object has no more."""
    named = _Probe()
    alone = _Probe().clone()
    return alone if alone < named.clone() else 0


_CALLERS = _callers()

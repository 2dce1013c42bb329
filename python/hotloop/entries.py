"""Entries of a TensorDict, set and read without its checks where they are known to fit.

TensorDict looks at every value that is set: its batch size, its device, its kind. For the entries of a
rollout step of 64 agents that costs as much as the policy's head. Here the caller vouches for them; a
TensorDict that is locked, is of another kind or keeps its entries elsewhere is set the ordinary way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from hotloop.spec import Key, nest

# Where a TensorDict keeps its entries.
_HAS_ENTRIES = isinstance(getattr(TensorDict({}), "_tensordict", None), dict)
_CONSTANTS = (torch.Size, torch.device, type(None), bool)
_new = object.__new__


def _is_open(td: TensorDictBase) -> TypeGuard[TensorDict]:
    return _HAS_ENTRIES and type(td) is TensorDict and not td.is_locked


def flat_tensordict(
    entries: Mapping[Key, Any], batch_size: tuple[int, ...], device: torch.device | None
) -> TensorDict:
    """A TensorDict `batch_size` of entries that are known to begin with it and to be on the device."""
    if not _HAS_ENTRIES or any(isinstance(key, tuple) for key in entries):
        return TensorDict(nest(entries), batch_size=batch_size, device=device)
    td = TensorDict({}, batch_size=batch_size, device=device)
    td._tensordict.update(entries)
    return td


class TensorDictShell:
    """Makes TensorDicts of one batch size and device out of entries that are known to fit.

    TensorDict's constructor reads batch size and device anew every time, which costs several times as much as
    the TensorDict itself where other code has filled the processor's caches.

    Args:
        kind: a subclass of it that has no state of its own.
    """

    def __init__(
        self,
        batch_size: tuple[int, ...],
        device: torch.device | None,
        kind: type[TensorDict] = TensorDict,
    ) -> None:
        self.batch_size = torch.Size(batch_size)
        self.device = device
        self.kind = kind
        state = dict(vars(kind({}, batch_size=batch_size, device=device)))
        entries = state.pop("_tensordict", None)
        # What it holds besides is shared by all that are made, so it must be of kinds that cannot change.
        plain = type(entries) is dict and all(type(value) in _CONSTANTS for value in state.values())
        self._state = state if plain else None

    def __call__(self, entries: dict[Any, Any]) -> TensorDict:
        """The TensorDict that keeps `entries`: the dict itself becomes a part of it."""
        if self._state is None:
            td = self.kind({}, batch_size=self.batch_size, device=self.device)
            return td.update(entries)
        td = _new(self.kind)
        state = td.__dict__
        state.update(self._state)
        state["_tensordict"] = entries
        return td


def set_entries(td: TensorDictBase, entries: Mapping[str, Any]) -> None:
    """`td.update(entries)` for entries that are known to fit `td` in batch size and device."""
    if _is_open(td):
        td._tensordict.update(entries)
    else:
        for key, value in entries.items():
            td[key] = value


def replace_entries(td: TensorDict, entries: Mapping[Any, Any]) -> bool:
    """Makes `entries` all that `td` holds; False, and nothing done, where that cannot be."""
    if not _is_open(td):
        return False
    td._tensordict.clear()
    td._tensordict.update(entries)
    return True


def unflattened(
    td: TensorDictBase, batch_size: tuple[int, ...], flat: Mapping[Any, Any], shaped: TensorDictBase
) -> TensorDictBase:
    """`td.reshape(batch_size)` of a TensorDict `[n]`.

    An entry that still is that of `flat` is taken from `shaped`, where it has it, which spares a view.
    """
    entries = plain_entries(td)
    known = plain_entries(shaped)
    if entries is None or known is None:
        return td.reshape(batch_size)
    return flat_tensordict(
        {
            key: known[key]
            if key in known and flat.get(key) is entry
            else entry.reshape(*batch_size, *entry.shape[1:])
            for key, entry in entries.items()
        },
        batch_size,
        td.device,
    )


def plain_entries(td: TensorDictBase) -> Mapping[Any, Tensor] | None:
    """The entries themselves, not to be written to, where all are plain tensors; else None."""
    if _HAS_ENTRIES and type(td) is TensorDict:
        entries: Mapping[Any, Tensor] = td._tensordict
        if all(type(entry) is Tensor for entry in entries.values()):
            return entries
    return None

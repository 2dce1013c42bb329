"""`StorePlan`: one rollout step into its place in the buffer, cursors and last actions included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor

from hotloop import _core
from hotloop.ops._leaves import LeafKey, leaf_at, leaf_path, require_tensors
from hotloop.ops.last_actions import LastActions
from hotloop.ops.row_cursors import RowCursors
from hotloop.ops.store import store_


class StorePlan:
    """Writes steps of a slice of agents into a buffer `[S, T]`.

    The plan looks its leaves up anew at every call, in the dict behind the TensorDict, so a leaf that was
    replaced, resized or moved in memory is written where it is now.

    Args:
        buffer: a TensorDict, or a (nested) dict, whose leaves are CPU tensors `[S, T, ...]`.
        keys: the leaves that are written; tuples for nested ones.
        cursors: where each agent writes. S and T are theirs.
        actions: the key under which a step holds its actions.

    Raises:
        KeyError: the buffer lacks a key.
        TypeError, ValueError: a leaf that is no `[S, T, ...]` tensor of its own memory.
    """

    def __init__(
        self,
        buffer: Any,
        keys: Iterable[LeafKey],
        cursors: RowCursors,
        actions: LeafKey = "actions",
    ) -> None:
        self.buffer = buffer
        self.keys = tuple(keys)
        self.cursors = cursors
        self.actions = actions
        paths = tuple(map(leaf_path, self.keys))
        self._native = _core.StorePlan(buffer, paths, leaf_path(actions), cursors.native)
        self._store = self._native.store

    def store(
        self,
        source: Mapping[Any, Any] | Sequence[Tensor] | Any,
        start: int,
        stop: int,
        last_actions: LastActions | None = None,
    ) -> Tensor | None:
        """Write one step of agents `[start, stop)` and advance their cursors.

        All of them must stand at one position of their rows. Nothing is written when anything is wrong.

        Args:
            source: a TensorDict or dict with the plan's keys, or a list of tensors in their order; each
                `[n, ...]` with n = stop - start. Other dtypes than the buffer's convert on the way.
            last_actions: where the step's actions are remembered in the same pass. Left as it is when the
                source holds no actions `[n]` or `[n, k]`.

        Returns:
            The actions that were remembered, or None.

        Raises:
            KeyError: the source lacks a key.
            IndexError: agents outside `[0, A)`, or cursors outside the buffer.
            TypeError, ValueError: a source of a wrong kind or shape; agents at different positions.
        """
        memory = None if last_actions is None else last_actions.buffer
        remembered: Tensor | None = self._store(source, start, stop, memory)
        if remembered is NotImplemented:
            return self._store_by_op(source, start, stop, last_actions)
        return remembered

    def _store_by_op(
        self, source: Any, start: int, stop: int, last_actions: LastActions | None
    ) -> Tensor | None:
        """For tensor subclasses, which torch's dispatcher must see."""
        listed = isinstance(source, (list, tuple))
        sources = list(source) if listed else [leaf_at(source, leaf_path(key)) for key in self.keys]
        buffers = [leaf_at(self.buffer, leaf_path(key)) for key in self.keys]
        require_tensors("StorePlan.store: each source", sources)
        actions: Tensor | None = None
        if not listed and last_actions is not None:
            with suppress(KeyError):
                actions = leaf_at(source, leaf_path(self.actions))
                require_tensors("StorePlan.store: actions", [actions])
        rows, positions = self.cursors.rows[start:stop], self.cursors.positions[start:stop]
        width = () if last_actions is None else last_actions.buffer.shape[1:]
        shapes = ((stop - start, *width), (stop - start,) if width == (1,) else None)
        if actions is None or last_actions is None or tuple(actions.shape) not in shapes:
            store_(buffers, sources, rows, positions)
            self.cursors.advance(start, stop)
            return None
        # Actions first, which are few and can be taken back: either op may refuse what it is given.
        before = last_actions.buffer.clone()
        last_actions.write_(actions, start, stop)
        try:
            store_(buffers, sources, rows, positions)
        except Exception:
            last_actions.buffer.copy_(before)
            raise
        self.cursors.advance(start, stop)
        return actions

    def __reduce__(self) -> tuple[Any, ...]:
        return StorePlan, (self.buffer, self.keys, self.cursors, self.actions)

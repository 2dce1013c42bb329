"""`store_`: one rollout step of every agent into its row of the buffer, all leaves in one native call."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hotloop import _core
from hotloop.ops._register import register_in_place

_OP = register_in_place(
    "store_", "Tensor(a!)[] buffers, Tensor[] sources, Tensor rows, Tensor positions", _core.store_
)


def store_(buffers: Sequence[Tensor], sources: Sequence[Tensor], rows: Tensor, positions: Tensor) -> None:
    """`buffers[l][rows[i], positions[i]] = sources[l][i]` for every leaf l and agent i.

    Args:
        buffers: tensors `[S, T, ...]` with common S and T, written in place (their version counters advance).
        sources: tensors `[n, ...]`; a dtype other than the buffer's converts on the way.
        rows: `[n]` int64, the segment that each agent writes to.
        positions: `[n]` int64, its next step there, 0 ... T-1. Both are checked before anything is written.

    Raises:
        TypeError, ValueError: see `hotloop.ops.puff_advantage`.
        IndexError: a row outside [0, S) or a position outside [0, T).
    """
    buffers, sources = list(buffers), list(sources)
    if _core.store_(buffers, sources, rows, positions) is NotImplemented:
        _OP(buffers, sources, rows, positions)

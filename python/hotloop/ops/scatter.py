"""`scatter_`: rows of a minibatch written back into the buffer they came from."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hotloop import _core
from hotloop.ops._register import register_in_place

_OP = register_in_place("scatter_", "Tensor(a!)[] targets, Tensor indices, Tensor[] sources", _core.scatter_)


def scatter_(targets: Sequence[Tensor], indices: Tensor, sources: Sequence[Tensor]) -> None:
    """`targets[l][indices[j]] = sources[l][j]` for every leaf l, in the order of j: the last duplicate wins.

    Args:
        targets: tensors `[S, ...]` with one common S, written in place (their version counters advance).
        indices: `[k]` int64, 0 ... S-1. Checked before anything is written.
        sources: tensors `[k, ...]`; a dtype other than the target's converts on the way.

    Raises:
        TypeError, ValueError: see `hotloop.ops.puff_advantage`.
        IndexError: an index outside [0, S).
    """
    targets, sources = list(targets), list(sources)
    if _core.scatter_(targets, indices, sources) is NotImplemented:
        _OP(targets, indices, sources)

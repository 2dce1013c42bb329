"""`gather`: the rows of all leaves of a buffer for one minibatch, in one native call."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hotloop import _core
from hotloop.ops._register import register, require_tensor


def _allocate(sources: Sequence[Tensor], indices: Tensor) -> list[Tensor]:
    require_tensor("gather", "indices", indices)
    for i, source in enumerate(sources):
        require_tensor("gather", f"sources[{i}]", source)
    return [source.new_empty((*indices.shape, *source.shape[1:])) for source in sources]


_OUT_OP = register(
    "gather", "Tensor[] sources, Tensor indices", ("Tensor(a!)[] out",), _core.gather, _allocate
)


def gather(
    sources: Sequence[Tensor], indices: Tensor, *, out: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """`out[l][j] = sources[l][indices[j]]` for every leaf l.

    Args:
        sources: tensors `[S, ...]` with one common S, any dtypes and strides.
        indices: `[k]` int64, 0 ... S-1; repeats are allowed. Checked before anything is written.
        out: tensors `[k, ...]` to write into, with memory of their own. A dtype other than the source's
            converts on the way. Reuse them from minibatch to minibatch: fresh pages cost several times the
            copy.

    Returns:
        `out` as a list, or new tensors of the sources' dtypes.

    Raises:
        TypeError, ValueError: see `hotloop.ops.puff_advantage`.
        IndexError: an index outside [0, S).
    """
    sources = list(sources)
    written = _allocate(sources, indices) if out is None else list(out)
    if _core.gather(sources, indices, written) is NotImplemented:
        _OUT_OP(sources, indices, out=written)
    return written

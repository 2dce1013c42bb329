"""`ColumnStore`: rollout steps whose numbers lie time by time until the rollout is over, and `LentTensors`:
tensors over the arrays that steps arrive in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hotloop import _core
from hotloop.ops._memory import empty_buffer
from hotloop.ops.row_cursors import RowCursors

_LINE_BYTES = 64


class ColumnStore:
    """Writes steps of a slice of agents into buffers `[S, T, ...]`, one call a step, and little else.

    The first buffer, which is wide, is written in place. One number an agent would touch as many lines of
    memory as an observation does: those of the others are collected in `columns`, `[T, S, ...]`, and come
    into the buffers by `spread`. Unlike `StorePlan` it looks at the buffers in `bind` alone: until `spread`
    nobody may replace or move them.

    Args:
        buffers: contiguous CPU tensors `[S, T, ...]` by name; their shapes and dtypes are kept, not they.
        cursors: where each agent writes. S and T are theirs.

    Attributes:
        columns: what was collected, by name (all but the first).
        names: those of the buffers.

    Raises:
        ValueError: a buffer that is no `[S, T, ...]`.
    """

    def __init__(self, buffers: Mapping[str, Tensor], cursors: RowCursors) -> None:
        self.names = tuple(buffers)
        self.cursors = cursors
        narrow = [buffers[name] for name in self.names[1:]]
        # In one block: a step then touches few pages.
        sizes = [_rounded(each.numel() * each.element_size()) for each in narrow]
        block = empty_buffer((sum(sizes),), torch.uint8).zero_()
        parts = block.split(sizes) if sizes else []
        self.columns: dict[str, Tensor] = {}
        for name, each, part in zip(self.names[1:], narrow, parts, strict=True):
            if each.dim() < 2:
                raise ValueError(f"ColumnStore: {name} must be [S, T, ...], got {list(each.shape)}")
            used = part[: each.numel() * each.element_size()]
            self.columns[name] = used.view(each.dtype).view(each.shape[1], each.shape[0], *each.shape[2:])
        self._native = _core.ColumnStore(self.names, tuple(self.columns.values()), cursors.native)
        self.try_store = self._native.store
        self.try_step = self._native.step
        self.spread = self._native.spread

    def bind(self, buffers: Mapping[str, Tensor]) -> None:
        """Before a rollout: the buffers that it goes into.

        Raises:
            KeyError: a name is missing.
            TypeError, ValueError: a buffer of another kind, shape or dtype than the columns were made for.
        """
        if not self._native.bind(tuple(buffers[name] for name in self.names)):
            raise TypeError("ColumnStore: buffers must be plain torch.Tensor")

    def store(self, sources: tuple[Tensor, ...], start: int, stop: int) -> int:
        """Write one step of agents `[start, stop)` and advance their cursors.

        All of them must stand at one position of their rows, in rows that follow each other. Nothing is
        written when anything is wrong.

        Args:
            sources: `[n, ...]` with n = stop - start, one for each name; trailing dimensions of 1 more than
                the buffer has are passed over. Other dtypes than the buffer's convert on the way.

        Returns:
            Rows that were finished since the cursors' last reset.

        Raises:
            IndexError: agents outside `[0, A)`. RuntimeError: nothing is bound.
            TypeError, ValueError: a source of a wrong kind or shape; agents at different positions.
        """
        full_rows: int = self.try_store(sources, start, stop)
        if full_rows >= 0:
            return full_rows
        # subclasses of Tensor, which torch reads
        return self.store(tuple(each.as_subclass(Tensor) for each in sources), start, stop)

    def step(
        self, sources: tuple[Tensor, ...], start: int, stop: int, lent: int
    ) -> tuple[int, npt.NDArray[Any]]:
        """`store`, and what `sources[lent].numpy()` gives: an array in the same memory.

        Raises:
            ValueError: `lent` is none of the sources. Else as `store`, and as `Tensor.numpy`.
        """
        full_rows, array = self.try_step(sources, start, stop, lent)
        if full_rows < 0:
            full_rows = self.store(sources, start, stop)
        return full_rows, sources[lent].numpy() if array is None else array


class LentTensors:
    """Tensors over NumPy arrays whose memory comes again, as that of environments which write every step into
    the same arrays.

    `tensors((a, b, ...))` gives for each array what `torch.from_numpy` does (`torch.as_tensor` for what is no
    array), as a tuple. Where arrays lie in the same memory as those of an earlier call, with the same shapes,
    strides and dtypes, it is the tuple of that call, unless somebody has changed one of its tensors in place
    (its shape, what it points to, whether it requires grad). Arrays are held until `forget`, so that their
    memory is not given to others meanwhile. Of those that may not be written to none is held.

    Args:
        limit: calls whose arrays are held. One more that lie elsewhere, and all are let go: this memory does
            not come again, and until `forget` nothing more is held.
    """

    def __init__(self, limit: int) -> None:
        self._native = _core.LentTensors(_tensor, limit)
        self.tensors = self._native.tensors
        self.forget = self._native.forget
        self.held = self._native.held


def _tensor(data: Any) -> Tensor:
    # from_numpy is a third of as_tensor, which looks for what kind of thing it was given
    return torch.from_numpy(data) if type(data) is np.ndarray else torch.as_tensor(data)


def _rounded(size: int) -> int:
    return -(-size // _LINE_BYTES) * _LINE_BYTES

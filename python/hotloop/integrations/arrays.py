"""Memory of results that is used again."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Array: TypeAlias = np.ndarray[Any, Any]

ALIGNMENT = 64  # bytes, as torch allocates: results of its matrix products may depend on it


_DTYPES = {torch.bool: np.bool_, torch.float32: np.float32, torch.float64: np.float64}
_KEPT = 3  # arrays of one name: the last minibatch may be held while the next one is made


class ArrayPool:
    """Arrays by name. Memory that nobody else holds any more is handed out again, so that its pages need
    not be mapped anew; what is held as an array, a view of it or a tensor in it is left alone."""

    def __init__(self) -> None:
        self._kept: dict[str, list[tuple[Array, Array]]] = {}  # memory, and the array in it
        self._lock = Lock()  # two threads must not find the same array free

    def empty(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of this shape and dtype, aligned, with whatever is in it."""
        return self._array(name, shape, np.dtype(dtype), zero=False)

    def zeros(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """The same, all zero."""
        return self._array(name, shape, np.dtype(dtype), zero=True)

    def tensor(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor (bool or floating) with whatever is in it."""
        return torch.from_numpy(self.empty(name, tuple(shape), _DTYPES[dtype]))

    def _array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], zero: bool) -> Array:
        with self._lock:
            return self._find(self._kept.setdefault(name, []), shape, dtype, zero)

    @staticmethod
    def _find(
        kept: list[tuple[Array, Array]], shape: tuple[int, ...], dtype: np.dtype[Any], zero: bool
    ) -> Array:
        for at in range(len(kept)):
            if kept[at][1].shape == shape and kept[at][1].dtype == dtype and _references(kept, at) == _ALONE:
                array = kept[at][1]
                if zero:
                    array.fill(0)
                return array
        size = math.prod(shape) * dtype.itemsize
        memory = (np.zeros if zero else np.empty)(size + ALIGNMENT, np.uint8)
        start = -memory.__array_interface__["data"][0] % ALIGNMENT
        array = memory[start : start + size].view(dtype).reshape(shape)
        kept.append((memory, array))
        del kept[:-_KEPT]
        return array

    def __reduce__(self) -> tuple[type[ArrayPool], tuple[()]]:
        return ArrayPool, ()  # copies have memory of their own


def _references(kept: list[tuple[Array, Array]], at: int) -> tuple[int, int]:
    # Views of an array hold the one that owns the memory, tensors hold the array that they were made from.
    return sys.getrefcount(kept[at][0]), sys.getrefcount(kept[at][1])


def _alone() -> tuple[int, int]:
    """What the interpreter counts where nobody else holds either."""
    memory = np.empty(1)
    kept = [(memory, memory[:1])]
    del memory
    return _references(kept, 0)


_ALONE = _alone()

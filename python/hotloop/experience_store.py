"""Writing rollout steps into the buffer of an Experience."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from hotloop import ops
from hotloop.devices import in_host_memory, runs_ops
from hotloop.experience_rows import RowBook
from hotloop.spec import Key, key_name

StepData = TensorDictBase | Mapping[Any, Any]


class Remembered(NamedTuple):
    """Actions that `store` wrote into the last actions, as they were then."""

    actions: Tensor
    version: int
    start: int
    stop: int


class StepStore:
    """Writes the entries `keys` of a step into the buffer and advances the cursors.

    A buffer in host memory is written by one native call (`hotloop.ops.StorePlan`), one on a CUDA device by
    one kernel (`hotloop.ops.store_`), on other devices torch does it. Leaves are looked up at every call, so
    an entry that a loss has replaced is written where it is.
    """

    def __init__(self, buffer: TensorDict, keys: list[Key], book: RowBook, device: torch.device) -> None:
        self.keys = keys
        self._buffer = buffer
        self._book = book
        self._plan = ops.StorePlan(buffer, keys, book.cursors) if in_host_memory(device) else None
        self._device = device
        self._by_op = runs_ops(device)

    def write(
        self, step: StepData, start: int, stop: int, column: int, last_actions: ops.LastActions | None
    ) -> Remembered | None:
        """Write one step of the agents `[start, stop)` into their rows; what was remembered of it.

        Raises as `Experience.store` does, before anything is written.
        """
        if self._plan is None:
            if self._by_op:
                return self._write_by_op(step, start, stop, last_actions)
            self._write_by_torch(step, start, stop, column)
            return None
        try:
            actions = self._plan.store(step, start, stop, last_actions)
        except (KeyError, TypeError, ValueError):
            self._sources(step, stop - start)  # says it in the words of the experience, where it can
            raise
        if actions is None or actions.is_inference():  # inference tensors do not count their changes
            return None
        return Remembered(actions, actions._version, start, stop)

    def _write_by_op(
        self, step: StepData, start: int, stop: int, last_actions: ops.LastActions | None
    ) -> Remembered | None:
        sources = [
            source.detach().to(device=self._device, non_blocking=True)
            for source in self._sources(step, stop - start)
        ]
        views = self._book.views(start, stop)
        ops.store_([self._buffer[key] for key in self.keys], sources, views.rows, views.positions)
        self._book.cursors.advance(start, stop)
        actions = step["actions"] if "actions" in step.keys() else None  # noqa: SIM118 (of a TensorDict)
        if last_actions is None or not isinstance(actions, Tensor):
            return None
        shapes = [(stop - start, width := last_actions.buffer.shape[1]), *([(stop - start,)] * (width == 1))]
        if actions.shape not in shapes:
            return None
        last_actions.write_(actions.detach(), start, stop)
        return None if actions.is_inference() else Remembered(actions, actions._version, start, stop)

    def _write_by_torch(self, step: StepData, start: int, stop: int, column: int) -> None:
        sources = self._sources(step, stop - start)
        rows = self._book.views(start, stop).rows
        for key, source in zip(self.keys, sources, strict=True):
            target = self._buffer[key].select(1, column)
            source = source.detach().to(device=target.device, dtype=target.dtype, non_blocking=True)
            target.index_copy_(0, rows, source)
        self._book.cursors.advance(start, stop)

    def _sources(self, step: StepData, count: int) -> list[Tensor]:
        """The step's entries. KeyError or ValueError where they do not fit the buffer."""
        sources = []
        for key in self.keys:
            try:
                source = step[key]
            except KeyError:
                raise KeyError(
                    f"Experience.store: td must hold {key_name(key)!r} (set_store_keys restricts what is "
                    f"stored), got only {sorted(map(str, step.keys()))}"
                ) from None
            shape = (count, *self._buffer[key].shape[2:])
            if source.shape != shape:
                raise ValueError(
                    f"Experience.store: {key_name(key)!r} must be {list(shape)}, got {list(source.shape)}"
                )
            sources.append(source)
        return sources

"""The entries of a step TensorDict that are copied or converted, in memory that stays where it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hotloop import ops
from hotloop.devices import in_host_memory
from hotloop.spec import Key, key_name


class Column(NamedTuple):
    """One entry `[n, *shape]` of a step."""

    key: Key
    shape: tuple[int, ...]
    dtype: torch.dtype
    windowed: bool = False  # its source holds all agents, not those of the slice alone
    cleared: bool = False  # zeros where an episode ended, when that is asked for


class Stage:
    """Copies the columns of one slice of agents, converting dtypes on the way.

    In host memory that is one native call (`hotloop.ops.StagePlan`) into tensors that every step of the slice
    overwrites; on other devices torch makes new ones.
    """

    def __init__(self, columns: Sequence[Column], start: int, stop: int, device: torch.device) -> None:
        self.columns = columns
        self._start = start
        self._stop = stop
        self._device = device
        self.entries: dict[Key, Tensor] | None = None  # the tensors that every call overwrites
        self._plan: ops.StagePlan | None = None
        if in_host_memory(device):
            with torch.inference_mode(False):  # they outlive whatever mode this call is made in
                self.entries = {
                    column.key: torch.zeros((stop - start, *column.shape), dtype=column.dtype)
                    for column in columns
                }
            self._plan = ops.StagePlan(
                {key_name(key): entry for key, entry in self.entries.items()},
                offsets={key_name(column.key): start for column in columns if column.windowed},
                cleared=[key_name(column.key) for column in columns if column.cleared],
            )

    def __call__(self, sources: list[Tensor], ends: Sequence[Tensor]) -> dict[Key, Tensor]:
        """The entries by key, from one source for each column; `ends`: flags `[n]` of ended episodes."""
        if self._plan is not None and self.entries is not None:
            self._plan.stage(sources, ends)
            return self.entries
        entries = {}
        for column, source in zip(self.columns, sources, strict=True):
            rows = source[self._start : self._stop] if column.windowed else source
            entry = torch.empty(
                (self._stop - self._start, *column.shape), dtype=column.dtype, device=self._device
            ).copy_(rows, non_blocking=True)
            for flags in ends if column.cleared else ():
                ended = (flags != 0).to(self._device, non_blocking=True)
                entry.masked_fill_(ended.reshape(-1, *[1] * len(column.shape)), 0)
            entries[column.key] = entry
        return entries

"""Steps from host memory to a device, and actions back.

The tensors of a step (observations, rewards, flags, mask) are written into one piece of pinned memory and go
to the device as one asynchronous copy on the current stream; the device's tensors are views of what arrives.
Two pieces for each slice of agents take turns. An event behind each copy says when its piece may be written
again: until then the device may still be reading it, although the call that started the copy has long
returned.

Actions come back through pinned memory too, and the host waits for them: the environment cannot step without.
It is the one wait of a rollout step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotloop.devices import DeviceCalls, Event

# Each tensor begins at a multiple of this many bytes.
_ALIGNMENT = 256
_PIECES = 2

_Layout = tuple[tuple[torch.Size, torch.dtype], ...]


class _Piece:
    """Pinned memory of one step, and how far the device has come with it."""

    def __init__(self, layout: _Layout, offsets: Sequence[int], size: int, calls: DeviceCalls) -> None:
        self.memory = calls.pinned(size)
        self.views = _views(self.memory, layout, offsets)
        self._event: Event = calls.event()
        self._read = False  # whether the device has been told to read it

    def wait(self) -> None:
        """Until the device has read what is in it."""
        if self._read:
            self._event.synchronize()
            self._read = False

    def mark(self) -> None:
        """The device has been told to read it."""
        self._event.record()
        self._read = True


class _Ring:
    """The pieces of one slice."""

    def __init__(self, layout: _Layout, calls: DeviceCalls) -> None:
        self.layout = layout
        self.offsets, self.size = _offsets(layout)
        self._pieces = [_Piece(layout, self.offsets, self.size, calls) for _ in range(_PIECES)]
        self._turn = 0

    def next(self) -> _Piece:
        self._turn = (self._turn + 1) % len(self._pieces)
        return self._pieces[self._turn]


class StepUpload:
    """Carries the tensors of steps to `device`."""

    def __init__(self, device: torch.device, calls: DeviceCalls) -> None:
        self._device = device
        self._calls = calls
        self._rings: dict[tuple[int, int], _Ring] = {}

    def __call__(self, agents: tuple[int, int], tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The tensors of a step of the slice `agents` (start, stop) on the device, in new memory there; None
        stays None, and what is not in host memory is torch's to move."""
        carried = [tensor for tensor in tensors if tensor is not None and tensor.is_cpu]
        arrived = iter(self._carry(agents, carried) if carried else ())
        return [
            tensor
            if tensor is None
            else next(arrived)
            if tensor.is_cpu
            else tensor.to(self._device, non_blocking=True)
            for tensor in tensors
        ]

    def _carry(self, agents: tuple[int, int], tensors: list[Tensor]) -> list[Tensor]:
        layout = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        ring = self._rings.get(agents)
        if ring is None or ring.layout != layout:
            ring = self._rings[agents] = _Ring(layout, self._calls)
        piece = ring.next()
        piece.wait()
        for view, tensor in zip(piece.views, tensors, strict=True):
            view.copy_(tensor)
        there = torch.empty(ring.size, dtype=torch.uint8, device=self._device)
        self._calls.copy(there, piece.memory)
        piece.mark()
        return _views(there, layout, ring.offsets)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rings": {}}  # a copy has memory and events of its own


class ActionDownload:
    """Brings the actions of steps from `device` to the host."""

    def __init__(self, device: torch.device, calls: DeviceCalls) -> None:
        self._device = device
        self._calls = calls
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._event: Event | None = None

    def __call__(self, actions: Tensor) -> np.ndarray[Any, Any]:
        """The actions in an array of their own. Waits for the device, until they are there and no longer."""
        array: np.ndarray[Any, Any]
        if actions.device != self._device:
            array = actions.cpu().numpy()
            return array
        size = actions.numel() * actions.element_size()
        if self._event is None or len(self._memory) < size:
            self._memory, self._event = self._calls.pinned(size), self._calls.event()
        here = self._memory[:size].view(actions.dtype).view(actions.shape)
        self._calls.copy(here, actions)
        self._event.record()
        self._event.synchronize()
        array = here.numpy().copy()  # an environment may keep it
        return array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_memory": torch.empty(0, dtype=torch.uint8), "_event": None}


def _offsets(layout: _Layout) -> tuple[list[int], int]:
    """Where each tensor begins, and the bytes of all."""
    offsets, size = [], 0
    for shape, dtype in layout:
        offsets.append(size)
        size += -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
    return offsets, size


def _views(memory: Tensor, layout: _Layout, offsets: Sequence[int]) -> list[Tensor]:
    return [
        memory[offset : offset + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
        for (shape, dtype), offset in zip(layout, offsets, strict=True)
    ]

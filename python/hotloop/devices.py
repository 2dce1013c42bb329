"""What the loop asks of a device's runtime, and which code serves which device.

Three kinds of device are told apart. Host memory: the plans of `hotloop.ops` write and read it in place.
CUDA: the ops of `hotloop.ops` launch kernels, nothing may wait for them. Others: torch's functions. All that
needs CUDA's runtime itself is in `CudaCalls`, a few lines each, behind the protocol `DeviceCalls`; tests put
another in its place and let host memory stand for a device (`host_as_device`), so that the loop's way on a
device runs where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

# What torch says where `set_sync_debug_mode("error")` stops a call (c10/cuda/CUDAFunctions.cpp).
SYNC_MESSAGE = "called a synchronizing CUDA operation"


class Event(Protocol):
    """A mark in the device's queue."""

    def record(self) -> None:
        """Behind everything that has been queued so far."""

    def synchronize(self) -> None:
        """Wait until the device has come past the mark."""


class Graph(Protocol):
    """Captured work."""

    def replay(self) -> None:
        """Queue it once more."""


class DeviceCalls(Protocol):
    """What cannot be said through tensors alone."""

    def pinned(self, count: int) -> Tensor:
        """uint8 ``[count]`` in page-locked host memory, which the device copies from and to by itself."""

    def event(self) -> Event:
        """A new mark."""

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Queue a copy between pinned memory and the device; the host goes on at once."""

    def sync_debug_mode(self) -> int:
        """What torch does at a call that waits for the device: 0 nothing, 1 warn, 2 raise."""

    def set_sync_debug_mode(self, mode: int) -> None:
        """See `sync_debug_mode`."""

    def on_side_stream(self, work: Callable[[], None]) -> None:
        """Run `work` on a stream of its own, after what is queued and before what will be."""

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what `work` queues, without running it. Waits for the device."""


class _CudaEvent:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event = torch.cuda.Event()

    def record(self) -> None:
        self._event.record(torch.cuda.current_stream(self._device))

    def synchronize(self) -> None:
        self._event.synchronize()


class CudaCalls:
    """`DeviceCalls` of a CUDA device. Everything in here needs a GPU; `tests/test_loop_gpu.py` runs it on
    one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def pinned(self, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.uint8, pin_memory=True)

    def event(self) -> Event:
        return _CudaEvent(self._device)

    def copy(self, target: Tensor, source: Tensor) -> None:
        target.copy_(source, non_blocking=True)

    def sync_debug_mode(self) -> int:
        return torch.cuda.get_sync_debug_mode()

    def set_sync_debug_mode(self, mode: int) -> None:
        torch.cuda.set_sync_debug_mode(mode)

    def on_side_stream(self, work: Callable[[], None]) -> None:
        with torch.cuda.device(self._device):
            side, current = torch.cuda.Stream(), torch.cuda.current_stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                work()
            current.wait_stream(side)

    def capture(self, work: Callable[[], None]) -> Graph:
        graph = torch.cuda.CUDAGraph()
        before = self.sync_debug_mode()
        self.set_sync_debug_mode(0)
        try:
            with torch.cuda.device(self._device), torch.cuda.graph(graph):
                work()
        finally:
            self.set_sync_debug_mode(before)
        return graph


_stand_in: DeviceCalls | None = None


@contextmanager
def host_as_device(calls: DeviceCalls) -> Iterator[None]:
    """For tests: tensors in host memory are treated as those of a device whose runtime is `calls`, by what is
    built inside of the block."""
    global _stand_in
    before, _stand_in = _stand_in, calls
    try:
        yield
    finally:
        _stand_in = before


def in_host_memory(device: torch.device) -> bool:
    """Whether tensors of the device can be read and written by the host, without anybody else in between."""
    return device.type == "cpu" and _stand_in is None


def runs_ops(device: torch.device) -> bool:
    """Whether the ops that move rows serve the device: host memory and CUDA. Others are torch's."""
    return device.type in ("cpu", "cuda")


def device_calls(device: torch.device) -> DeviceCalls | None:
    """The runtime of a CUDA device; None of host memory and of other devices."""
    if _stand_in is not None and device.type == "cpu":
        return _stand_in
    return CudaCalls(device) if device.type == "cuda" else None


def exact_device(device: torch.device | str) -> torch.device:
    """The device as tensors name it: ``cuda`` is the current one of its kind."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On `device`, without waiting for it; the tensor itself where it is there already. For what is moved
    once in a while: it goes by pinned memory that torch keeps until the copy has been made."""
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and tensor.is_cpu:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)

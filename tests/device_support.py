"""A device that is host memory: runtimes that record what is asked of them, and what waits for a device.

`FakeCalls` does everything at once, and checks that nobody writes to pinned memory that a copy still reads.
`LateCalls` does copies only when an event behind them is waited for, as a device may.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hotloop.devices import SYNC_MESSAGE, host_as_device

# What a CUDA tensor makes the host wait for, by the names that torch's dispatcher sees.
WAITING = {
    "aten::_local_scalar_dense",  # .item(), float(), int(), bool(), .tolist() of one
    "aten::item",
    "aten::nonzero",  # and boolean indexing, masked_select
    "aten::masked_select",
    "aten::equal",
    "aten::is_nonzero",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::repeat_interleave",
    "aten::bincount",
    "aten::allclose",
}


_READING = (Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.__array__)
# Their data is the host's, and not pinned: on its way to a device it would be waited for. What torch's
# optimizers make so (the count of steps) stays on the host.
_SENDING = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy)


class _NoReading(TorchFunctionMode):
    """What the dispatcher does not see where the tensor lies in host memory already."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _READING or (
            func in _SENDING and "/torch/optim/" not in sys._getframe(1).f_code.co_filename
        ):
            raise RuntimeError(f"{SYNC_MESSAGE} ({func.__name__})")
        return func(*args, **(kwargs or {}))


class NothingWaits(TorchDispatchMode):
    """Raises, as torch does under `set_sync_debug_mode("error")`, where CUDA tensors would be waited for.

    It sees more than torch: tensors in host memory that really are the host's must not be read in it either.
    """

    def __enter__(self) -> Any:
        self.reading = _NoReading()
        self.reading.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.reading.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name().partition(".")[0]
        indices = args[1] if name in ("aten::index", "aten::index_put_", "aten::index_put") else ()
        by_mask = any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)
        if name in WAITING or by_mask:
            raise RuntimeError(f"{SYNC_MESSAGE} ({name})")
        return func(*args, **(kwargs or {}))


class FakeEvent:
    def __init__(self, calls: FakeCalls, number: int) -> None:
        self.calls, self.number = calls, number
        self.covers: list[tuple[Tensor, int]] = []

    def record(self) -> None:
        self.calls.log.append(("record", self.number))
        self.covers, self.calls.unmarked = self.calls.unmarked, []
        self.calls.marked(self)

    def synchronize(self) -> None:
        self.calls.log.append(("wait", self.number))
        self.calls.come_past(self)
        for memory, version in self.covers:
            assert memory._version == version, "pinned memory was written to while a copy read it"
        self.covers = []


class FakeGraph:
    def __init__(self, calls: FakeCalls, work: Callable[[], None]) -> None:
        self.calls, self.work = calls, work

    def replay(self) -> None:
        self.calls.log.append(("replay",))
        self.work()


class _Recorder(TorchDispatchMode):
    """Writes down what torch is asked for, with the very tensors that it was asked with."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []
        self.before: list[tuple[Tensor, Tensor]] = []  # of what was written to

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written = value if isinstance(value, (list, tuple)) else [value]
                self.before += [(tensor, tensor.clone()) for tensor in written]
        result = func(*args, **kwargs)
        outputs = result if isinstance(result, (list, tuple)) else [result]
        self.entries.append((func, args, kwargs, [each for each in outputs if isinstance(each, Tensor)]))
        return result


class RecordedGraph:
    """What a CUDA graph is, for what goes through torch's dispatcher: capturing changes nothing, a replay
    does the same to the same tensors with the same numbers."""

    def __init__(self, work: Callable[[], None]) -> None:
        with _Recorder() as recorder:
            work()
        self.entries = recorder.entries
        with torch.no_grad():
            for tensor, before in reversed(recorder.before):
                tensor.copy_(before)

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, known in self.entries:
                result = func(*args, **kwargs)
                outputs = result if isinstance(result, (list, tuple)) else [result]
                for tensor, again in zip(known, outputs, strict=False):
                    if again is not tensor and again.data_ptr() != tensor.data_ptr():
                        tensor.copy_(again)


class RecordingCalls:
    """Mixed into a runtime: graphs that hold what they were recorded with."""

    log: list[tuple[Any, ...]]

    def capture(self, work: Callable[[], None]) -> RecordedGraph:
        self.log.append(("capture",))
        return RecordedGraph(work)


class FakeCalls:
    """A runtime whose device is always done."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.pieces: list[Tensor] = []
        self.unmarked: list[tuple[Tensor, int]] = []
        self.events = 0
        self.mode = 0
        self.modes: list[int] = []
        self.guard: NothingWaits | None = None

    def pinned(self, count: int) -> Tensor:
        self.log.append(("pinned", count))
        self.pieces.append(torch.full((count,), 255, dtype=torch.uint8))
        return self.pieces[-1]

    def event(self) -> FakeEvent:
        self.events += 1
        return FakeEvent(self, self.events - 1)

    def copy(self, target: Tensor, source: Tensor) -> None:
        self.log.append(("copy",))
        if any(source is piece for piece in self.pieces):
            self.unmarked.append((source, source._version))
        target.copy_(source)

    def marked(self, event: FakeEvent) -> None:
        """An event was recorded."""

    def come_past(self, event: FakeEvent) -> None:
        """The host waits for an event."""

    def sync_debug_mode(self) -> int:
        return self.mode

    def set_sync_debug_mode(self, mode: int) -> None:
        self.modes.append(mode)
        self.mode = mode
        if self.guard is not None:
            guard, self.guard = self.guard, None
            guard.__exit__(None, None, None)
        if mode == 2:
            self.guard = NothingWaits()
            self.guard.__enter__()

    def on_side_stream(self, work: Callable[[], None]) -> None:
        self.log.append(("side stream",))
        work()

    def capture(self, work: Callable[[], None]) -> FakeGraph:
        self.log.append(("capture",))
        return FakeGraph(self, work)


class GraphCalls(RecordingCalls, FakeCalls):  # type: ignore[misc]
    """A runtime with such graphs."""


class LateCalls(FakeCalls):
    """A runtime whose device does nothing before it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[Callable[[], None] | FakeEvent] = []

    def copy(self, target: Tensor, source: Tensor) -> None:
        self.log.append(("copy",))
        self.queue.append(lambda: _copy(target, source))

    def marked(self, event: FakeEvent) -> None:
        self.queue.append(event)

    def come_past(self, event: FakeEvent) -> None:
        while event in self.queue:
            entry = self.queue.pop(0)
            if not isinstance(entry, FakeEvent):
                entry()

    def finish(self) -> None:
        """The device does all that is left."""
        for entry in self.queue:
            if not isinstance(entry, FakeEvent):
                entry()
        self.queue.clear()


def _copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source)


@contextmanager
def fake_device() -> Iterator[FakeCalls]:
    """What is built inside treats host memory as a device."""
    calls = FakeCalls()
    with host_as_device(calls):
        yield calls
    assert calls.guard is None, "the audit was left on"

"""`sync_audit`: a training phase in which nothing may wait for the device.

The host queues work and the device does it; a training phase is fast as long as the host never waits, for
then the queue never runs dry. One ``.item()`` in a loss undoes it, and shows nowhere but in the time. Under
the audit torch raises at such a call (`torch.cuda.set_sync_debug_mode`), and the error says in which part of
the phase.

That finds what goes through torch. A library that calls CUDA by itself may wait unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hotloop.devices import SYNC_MESSAGE, DeviceCalls

if TYPE_CHECKING:
    from hotloop.context import ComponentContext

_RAISE = 2  # of `torch.cuda.set_sync_debug_mode`


class HostSyncError(RuntimeError):
    """Something in the training phase waited for the device. `phase`: the name that the stopwatch has for
    that part of it."""

    def __init__(self, phase: str) -> None:
        super().__init__(
            f"CoreTrainingLoop.training_phase: sync_audit=True, and the host waited for the device in "
            f"{phase!r}: a .item(), float(), bool() or .cpu() of a tensor there, a boolean index, nonzero(), "
            "or a copy from memory that is not pinned; the traceback above says where"
        )
        self.phase = phase


class SyncAudit:
    """Audits training phases on a device whose runtime is `calls`."""

    def __init__(self, calls: DeviceCalls) -> None:
        self._calls = calls

    @contextmanager
    def __call__(self, context: ComponentContext) -> Iterator[None]:
        """Raises HostSyncError for a call inside of the block that waits. What torch did about such calls
        before, it does again afterwards."""
        before, stopwatch = self._calls.sync_debug_mode(), context.stopwatch
        context.stopwatch = watch = _Watch(stopwatch)
        self._calls.set_sync_debug_mode(_RAISE)
        try:
            yield
        except RuntimeError as error:
            if SYNC_MESSAGE not in str(error):
                raise
            raise HostSyncError(watch.left_by_error or "between its parts") from error
        finally:
            self._calls.set_sync_debug_mode(before)
            context.stopwatch = stopwatch


class _Watch:
    """A stopwatch that knows which of its blocks an error left first."""

    def __init__(self, stopwatch: Any) -> None:
        self._stopwatch = stopwatch
        self.left_by_error: str | None = None

    def __call__(self, name: str) -> _Block:
        return _Block(self, name, self._stopwatch(name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stopwatch, name)


class _Block:
    __slots__ = ("_inner", "_name", "_watch")

    def __init__(self, watch: _Watch, name: str, inner: Any) -> None:
        self._watch, self._name, self._inner = watch, name, inner

    def __enter__(self) -> None:
        self._inner.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._watch.left_by_error is None:
            self._watch.left_by_error = self._name
        self._inner.__exit__(kind, error, trace)


def check_auditable(losses: Mapping[str, Any], *, may_undo: bool, checks_always: bool) -> None:
    """ValueError for settings that cannot be without waiting at each minibatch."""
    reasons = [
        f"target_kl of the loss {name!r}: whether to stop is known only to the device"
        for name, loss in losses.items()
        if getattr(getattr(loss, "cfg", None), "target_kl", None) is not None
    ]
    if may_undo:
        reasons.append("on_nan='skip': whether to skip a step is known only to the device")
    if checks_always:
        reasons.append("recurrent_check='always': it compares before every phase")
    if reasons:
        raise ValueError(
            "CoreTrainingLoop.training_phase: sync_audit=True cannot be with what waits for the device: "
            + "; ".join(reasons)
        )

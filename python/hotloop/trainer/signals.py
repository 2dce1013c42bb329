"""SIGINT and SIGTERM: the first asks the run to stop after its epoch, the second stops it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_WATCHED = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Context manager that notes the first SIGINT or SIGTERM in `received`.

    The handler puts the operating system's default action back, so a second signal ends the process at once,
    even inside native code where no Python handler could run. The previous handlers return on exit.
    Outside the main thread, where Python installs no handlers, it does nothing.

    Args:
        on_first: called once with the signal's number when the first signal arrives. It runs inside a signal
            handler, possibly in the middle of a print: it may `os.write`, it must not print or block.
        insist: whether a second signal is to end the process at once. Not under torchrun, which passes on a
            Ctrl-C that a terminal has sent to every process already, and kills after a while what does not
            end.
    """

    def __init__(self, on_first: Callable[[int], None] | None = None, *, insist: bool = True) -> None:
        self.received: int | None = None
        self._insist = insist
        self._on_first = on_first
        self._previous: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """0 when no signal came, else 128 + its number: 130 for SIGINT, 143 for SIGTERM."""
        return 0 if self.received is None else 128 + self.received

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        for watched in _WATCHED:
            signal.signal(watched, signal.SIG_DFL if self._insist else signal.SIG_IGN)
        self.received = signum
        if self._on_first is not None:
            self._on_first(signum)

    def ignore_from_now_on(self) -> None:
        """The process is about to end by itself, with something to say: no signal is to end it before, after
        the block neither."""
        for watched in self._previous:
            signal.signal(watched, signal.SIG_IGN)
            self._previous[watched] = signal.SIG_IGN

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for watched in _WATCHED:
                self._previous[watched] = signal.signal(watched, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for watched, previous in self._previous.items():
            # None stands for a handler that was not installed from Python and cannot be put back.
            signal.signal(watched, signal.SIG_DFL if previous is None else previous)
        self._previous.clear()


def announce(signum: int) -> None:
    """Says on stderr what the first signal will do; safe inside a signal handler."""
    # os.write: a signal may arrive in the middle of a print, which cannot be entered twice.
    # The escape sequence shows the cursor, which a live display hides and a second signal would leave hidden.
    cursor = "\x1b[?25h" if os.isatty(2) else ""
    name = signal.Signals(signum).name
    os.write(2, f"{cursor}\n{name}: finishing this epoch, then saving; once more to stop at once\n".encode())

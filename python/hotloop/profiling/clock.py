"""Time by phase: every moment belongs to the innermost phase that is under way, so that all phases add up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

#: what belongs to no phase, by what happened last
START = "start-up"
GLUE = "Python glue"
LOSS = "loss arithmetic"

Listener = Callable[[str | None], None]


class PhaseClock:
    """A stack of phases of one thread. `seconds` and `calls` are by phase; a phase inside another takes
    its time away from it. What is in no phase belongs to `base`, which starts as `START`.

    Args:
        listen: hears the name of each phase that is entered, and None when one is left.
    """

    def __init__(self, listen: Listener | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self.base = START
        self.stack: list[str] = []
        self._listen = listen
        self._thread = threading.get_ident()
        self._begun = self._since = perf_counter()
        self._ended: float | None = None

    @property
    def top(self) -> str:
        """The phase under way."""
        return self.stack[-1] if self.stack else self.base

    @property
    def wall(self) -> float:
        """Seconds from the start to `stop`, or to now."""
        return (perf_counter() if self._ended is None else self._ended) - self._begun

    def here(self) -> bool:
        """Whether this is the thread whose time is taken, and it still is."""
        return self._ended is None and threading.get_ident() == self._thread

    def enter(self, phase: str) -> None:
        """Begins a phase inside the one under way."""
        self._charge()
        self.stack.append(phase)
        self.calls[phase] = self.calls.get(phase, 0) + 1
        if self._listen is not None:
            self._listen(phase)

    def unwind(self, depth: int) -> float:
        """Ends the innermost phases until `depth` of them are left, those included that an exception
        left open, and
        returns the seconds since the last change of phase. Does nothing after `stop`, which ended all."""
        before = self._since
        while len(self.stack) > depth:
            self._charge()
            self.stack.pop()
            if self._listen is not None:
                self._listen(None)
        return self._since - before

    def rest(self, base: str) -> None:
        """From now on, what is in no phase belongs to `base`."""
        if base is not self.base:
            if not self.stack:
                self._charge()
            self.base = base

    def stop(self) -> None:
        """Ends all phases."""
        if self._ended is None:
            self._charge()
            self.unwind(0)
            self._ended = self._since

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase for the time of a `with` block; nothing in another thread."""
        if not self.here():
            yield
            return
        depth = len(self.stack)
        self.enter(name)
        try:
            yield
        finally:
            self.unwind(depth)

    def _charge(self) -> None:
        now = perf_counter()
        top = self.stack[-1] if self.stack else self.base
        self.seconds[top] = self.seconds.get(top, 0.0) + now - self._since
        self._since = now

"""Named timers that cost a fraction of a microsecond."""

from __future__ import annotations

from time import perf_counter
from types import TracebackType


class Stopwatch:
    """Accumulates wall-clock seconds by name::

        stopwatch = Stopwatch()
        with stopwatch("_rollout"):
            with stopwatch("_rollout.inference"):
                ...

    Names are independent of each other: time spent in a nested block counts for both. A block that enters
    its own name again counts once.
    """

    def __init__(self) -> None:
        self._timers: dict[str, _Timer] = {}
        self._since = perf_counter()

    def __call__(self, name: str) -> _Timer:
        """The context manager that times ``name``."""
        timer = self._timers.get(name)
        if timer is None:
            timer = self._timers[name] = _Timer()
        return timer

    def add(self, name: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere; nothing while a block of that name is under way, which
        counts them itself."""
        self(name).add(seconds)

    def elapsed(self, name: str) -> float:
        """Seconds spent in ``name`` since the last reset, a block under way included; 0 if never entered."""
        timer = self._timers.get(name)
        return 0.0 if timer is None else timer.elapsed()

    def wall_time(self) -> float:
        """Seconds since construction or the last reset."""
        return perf_counter() - self._since

    def shares(self) -> dict[str, float]:
        """``elapsed(name) / wall_time()`` of every name: fractions of the time since the last reset.

        Nested names overlap, so the shares of all names may add up to more than 1.
        """
        total = self.wall_time()
        return {name: timer.elapsed() / total if total else 0.0 for name, timer in self._timers.items()}

    def reset(self) -> None:
        """Every name back to 0; blocks under way go on from now."""
        self._since = perf_counter()
        for timer in self._timers.values():
            timer.reset(self._since)


class _Timer:
    __slots__ = ("_depth", "_seconds", "_start")

    def __init__(self) -> None:
        self._seconds = 0.0
        self._start = 0.0
        self._depth = 0

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._start = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._seconds += perf_counter() - self._start

    def add(self, seconds: float) -> None:
        if self._depth == 0:
            self._seconds += seconds

    def elapsed(self) -> float:
        return self._seconds + (perf_counter() - self._start if self._depth else 0.0)

    def reset(self, now: float) -> None:
        self._seconds = 0.0
        self._start = now

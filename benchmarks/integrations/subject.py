"""What takes part: a trainer of a host, with hotloop or without, and the parts of it that hotloop
replaces."""

from __future__ import annotations

import functools
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any


class Clock:
    """Seconds by part. The same entry points of the host are wrapped with hotloop and without: what is
    called through
    one of them is what hotloop replaces. A call inside a call counts for the outer one alone."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._inside = False

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Times every call of `owner.name` (a function of a module, a method of a class or of an object)."""
        setattr(owner, name, self.timed(getattr(owner, name), part))

    def timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The function, its calls timed; of one that returns an iterator, what it takes to get each
        item too."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = self._run(part, lambda: function(*args, **kwargs))
            return self._items(part, result) if isinstance(result, Iterator) else result

        return call

    def take(self) -> dict[str, float]:
        """Seconds by part since the last call."""
        taken, self._seconds = self._seconds, {}
        return taken

    def _run(self, part: str, work: Callable[[], Any]) -> Any:
        if self._inside:
            return work()
        self._inside, start = True, perf_counter()
        try:
            return work()
        finally:
            self._inside = False
            self._seconds[part] = self._seconds.get(part, 0.0) + perf_counter() - start

    def _items(self, part: str, items: Iterator[Any]) -> Iterator[Any]:
        end = object()
        while (item := self._run(part, lambda: next(items, end))) is not end:
            yield item


class Subject(ABC):
    """One trainer.

    Attributes:
        steps: agent steps of an iteration.
        clock: knows the parts that hotloop replaces.
        note: what a reader should know of the set-up.
    """

    steps: int
    clock: Clock
    note: str = ""

    @abstractmethod
    def iteration(self) -> None:
        """One rollout and the updates that follow it."""

    def close(self) -> None:
        """Releases the environments; most have nothing to release."""
        return


# Jobs of each host, small to large; its module has `make(job, *, hotloop, quick, seed) -> Subject`.
JOBS: dict[str, tuple[str, ...]] = {
    "metta": (
        "oct, 64 agents",
        "oct, 1024 agents",
        "oct, 1024 agents, LSTM",
        "head, 64 agents",
        "head, 1024 agents",
        "head, 1024 agents, prioritised",
        "head, 1024 agents, LSTM",
    ),
    "pufferlib": (
        "64 agents",
        "1024 agents",
        "4096 agents",
        "64 agents, fused",
        "1024 agents, fused",
        "4096 agents, fused",
    ),
    "rsl_rl": ("64 agents", "1024 agents", "4096 agents", "1024 agents, recurrent"),
    "cleanrl": ("8 agents", "64 agents", "1024 agents"),
    "sb3": ("8 agents", "64 agents", "1024 agents"),
    "torchrl": ("64 agents", "1024 agents", "1024 agents, vectorized"),
    "skrl": ("64 agents", "1024 agents"),
    "rl_games": ("64 agents", "1024 agents"),
    "tianshou": ("64 agents", "1024 agents"),
}


# Hosts whose module has `make_floor(job, *, quick, seed) -> Subject` too: its parts are what it takes to copy
# the bytes that they must move.
FLOORS = ("pufferlib",)


def sides(host: str) -> tuple[str, ...]:
    """Who takes part in a race at one of its jobs."""
    return ("plain", "hotloop", "floor") if host in FLOORS else ("plain", "hotloop")


def make_subject(host: str, job: str, *, side: str, quick: bool, seed: int) -> Subject:
    """A trainer at a job, for one of the `sides`; `quick`: so small that a run takes seconds."""
    module = importlib.import_module(f".host_{host}", __package__)
    if side == "floor":
        floor: Subject = module.make_floor(job, quick=quick, seed=seed)
        return floor
    subject: Subject = module.make(job, hotloop=side == "hotloop", quick=quick, seed=seed)
    return subject

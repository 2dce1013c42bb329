"""Timing contestants in turn, A B C A B C ...: a machine whose speed drifts slows all of them alike."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hotloop.bench import load

#: One call of a contestant for each set of inputs.
Calls = Sequence[Callable[[], object]]

LOAD_LIMIT = 0.12  # of all processors, used by others: samples taken above it are dropped
PATIENCE = 2  # how many times the wanted seconds may pass while windows are dropped
_WINDOW = 0.3  # seconds: thirty ticks of /proc/stat for each processor
_SHORTEST = 30e-6  # seconds a sample should take, so that the clock's own cost does not count
_WARM_UP = 3e-3  # seconds a contestant is run before its cost is believed
_MOST_SAMPLES = 2000
_FEWEST_SAMPLES = 5


@dataclass(frozen=True)
class Timing:
    """Microseconds a call. `spread` is the interquartile range over the median."""

    median: float
    minimum: float
    maximum: float
    spread: float
    samples: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        """Statistics of at least one sample, in microseconds."""
        if not samples:
            raise ValueError("Timing.of: samples must hold at least one number, got none")
        median = statistics.median(samples)
        quarters = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else [0.0] * 3
        spread = (quarters[2] - quarters[0]) / median if median > 0 else 0.0
        return cls(median, min(samples), max(samples), spread, len(samples))


@dataclass(frozen=True)
class Race:
    """What `interleaved` found."""

    timings: dict[str, Timing]
    windows: int  # windows whose samples count
    dropped: int  # windows whose samples do not, because of other load
    other_load: float | None  # the mean over the windows that count; None where the system does not tell
    quiet: bool  # False: too few windows were quiet, so the loud ones count too


@dataclass
class _Entrant:
    calls: Calls
    repeat: int  # calls a sample
    wanted: int  # samples

    def takes_part(self, number: int, rounds: int) -> bool:
        """Whether in this round: `wanted` of every `rounds`, evenly spaced."""
        number %= rounds
        return (number + 1) * self.wanted // rounds > number * self.wanted // rounds


@dataclass
class _Window:
    samples: dict[str, list[float]] = field(default_factory=dict)
    rounds: int = 0
    other: float | None = None

    @property
    def quiet(self) -> bool:
        return self.other is None or self.other <= LOAD_LIMIT


def interleaved(
    contestants: Mapping[str, Calls],
    *,
    seconds: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
    read_load: Callable[[], load.Reading | None] = load.read,
) -> Race:
    """Times every contestant in turn, for about `seconds` altogether.

    A contestant has one call for each set of inputs. The sets are used one after the other, across
    contestants, so with enough of them nobody finds in the cache what the one before it read. A slow
    contestant sits out rounds, so that it does not take the time of the quick ones; it gets five samples at
    least. Samples taken while others use more than 12 % of the machine are dropped and taken again, until
    twice `seconds` have passed; if most of the time was louder than that, all samples count and
    `quiet` is False.
    """
    if not contestants:
        raise ValueError("interleaved: contestants must hold at least one, got none")
    entrants = _enter(contestants, seconds, clock)
    rounds = max(entrant.wanted for entrant in entrants.values())
    processors = os.cpu_count() or 1
    windows: list[_Window] = []
    number = quiet_rounds = turn = 0
    begun = clock()
    while quiet_rounds < rounds and (number < rounds or clock() - begun < PATIENCE * seconds):
        window = _Window({name: [] for name in entrants})
        before, window_begun = read_load(), clock()
        while clock() - window_begun < _WINDOW and quiet_rounds + window.rounds < rounds:
            for name, entrant in entrants.items():
                if entrant.takes_part(number, rounds):
                    window.samples[name].append(_sample(entrant, turn, clock))
                    turn += entrant.repeat
            number += 1
            window.rounds += 1
        window.other = load.other_load(before, read_load(), processors)
        windows.append(window)
        quiet_rounds += window.rounds if window.quiet else 0
    return _judge(list(entrants), windows)


def _judge(names: Sequence[str], windows: Sequence[_Window]) -> Race:
    """Statistics of the quiet windows, or of all where too little is left of those."""
    counting = [window for window in windows if window.quiet]
    rounds = sum(window.rounds for window in windows)
    quiet = 2 * sum(window.rounds for window in counting) >= rounds and all(
        sum(len(window.samples[name]) for window in counting) >= _FEWEST_SAMPLES for name in names
    )
    if not quiet:
        counting = list(windows)
    loads = [window.other for window in counting if window.other is not None]
    return Race(
        timings={name: Timing.of([s for window in counting for s in window.samples[name]]) for name in names},
        windows=len(counting),
        dropped=len(windows) - len(counting),
        other_load=sum(loads) / len(loads) if loads else None,
        quiet=all(window.quiet for window in counting),
    )


def _enter(
    contestants: Mapping[str, Calls], seconds: float, clock: Callable[[], float]
) -> dict[str, _Entrant]:
    """Warms everybody up and decides how many samples each gets."""
    entrants = {}
    for name, calls in contestants.items():
        cost = max(_cost(calls, seconds / 2, clock), 1e-8)
        repeat = max(1, math.ceil(_SHORTEST / cost))
        wanted = round(seconds / len(contestants) / (cost * repeat))
        entrants[name] = _Entrant(calls, repeat, min(_MOST_SAMPLES, max(_FEWEST_SAMPLES, wanted)))
    return entrants


def _cost(calls: Calls, seconds: float, clock: Callable[[], float]) -> float:
    """Seconds a call, the shortest seen, after every set of inputs was used once (pages, compilation), or as
    many as a slow contestant gets through in `seconds`."""
    begun = clock()
    for call in calls:
        call()
        if clock() - begun > seconds:
            break
    begun, shortest, turn = clock(), math.inf, 0
    while turn < 2 or (clock() - begun < _WARM_UP and turn < _MOST_SAMPLES):
        start = clock()
        calls[turn % len(calls)]()
        shortest = min(shortest, clock() - start)
        turn += 1
    return shortest


def _sample(entrant: _Entrant, turn: int, clock: Callable[[], float]) -> float:
    calls, sets = entrant.calls, len(entrant.calls)
    if entrant.repeat == 1:
        call = calls[turn % sets]
        start = clock()
        call()
        return (clock() - start) * 1e6
    if sets == 1:
        call, repeat = calls[0], entrant.repeat
        start = clock()
        for _ in range(repeat):
            call()
        return (clock() - start) / repeat * 1e6
    chosen = [calls[(turn + i) % sets] for i in range(entrant.repeat)]
    start = clock()
    for call in chosen:
        call()
    return (clock() - start) / entrant.repeat * 1e6

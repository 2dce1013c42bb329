"""The clock of the benchmarks: who is timed when, statistics of samples, and other load that spoils them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotloop.bench import load
from hotloop.bench.load import Reading, busy_seconds, other_load
from hotloop.bench.timing import Timing, interleaved


class World:
    """A clock that only contestants move, and a load that the test decides."""

    def __init__(self, loads: Iterator[float] | None = None) -> None:
        self.now, self.busy, self.own = 0.0, 0.0, 0.0
        self.log: list[str] = []
        self.loads = loads
        self.readings = 0

    def clock(self) -> float:
        return self.now

    def contestant(self, name: str, seconds: float) -> Callable[[], object]:
        def call() -> None:
            self.log.append(name)
            self.now += seconds

        return call

    def read(self) -> Reading:
        """Every second reading ends a window: what others used in it is the next of `loads`."""
        self.readings += 1
        if self.loads is not None and self.readings % 2 == 0:
            self.busy += next(self.loads) * 10.0
            self.readings = 0
        return Reading(self.busy, self.own, self.now)


def test_contestants_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    calls = {name: [world.contestant(name, 0.01)] for name in "ABC"}
    race = interleaved(calls, seconds=0.9, clock=world.clock, read_load=lambda: None)
    timed = "".join(world.log)[-90:]
    assert timed == "ABC" * 30
    assert {t.samples for t in race.timings.values()} == {30}
    assert race.timings["B"].median == pytest.approx(10_000.0)
    assert (race.other_load, race.quiet, race.dropped) == (None, True, 0)


def test_sets_of_inputs_are_used_in_turn_across_contestants() -> None:
    world = World()
    calls = {name: [world.contestant(f"{name}{i}", 0.01) for i in range(3)] for name in "AB"}
    interleaved(calls, seconds=0.36, clock=world.clock, read_load=lambda: None)
    assert world.log[-18:] == ["A0", "B1", "A2", "B0", "A1", "B2"] * 3


def test_a_slow_contestant_sits_out_but_gets_five_samples() -> None:
    world = World()
    calls = {"quick": [world.contestant("q", 0.001)], "slow": [world.contestant("s", 1.0)]}
    race = interleaved(calls, seconds=0.2, clock=world.clock, read_load=lambda: None)
    assert race.timings["slow"].samples == 5
    assert race.timings["quick"].samples == 100
    timed = "".join(world.log)
    positions = [i for i, name in enumerate(timed[-105:]) if name == "s"]
    gaps = {b - a for a, b in itertools.pairwise(positions)}
    assert len(positions) == 5
    assert gaps == {21}


def test_a_slow_contestant_is_not_warmed_up_on_every_set() -> None:
    world = World()
    calls = {"slow": [world.contestant(f"s{i}", 1.0) for i in range(64)]}
    race = interleaved(calls, seconds=2.0, clock=world.clock, read_load=lambda: None)
    assert race.timings["slow"].samples == 5
    assert len(world.log) == 2 + 2 + 5  # until half of the time is over, then its cost, then samples


def test_a_quick_call_is_repeated_within_a_sample() -> None:
    world = World()
    race = interleaved(
        {"quick": [world.contestant("q", 1e-6)]}, seconds=0.01, clock=world.clock, read_load=lambda: None
    )
    timing = race.timings["quick"]
    assert timing.median == pytest.approx(1.0)
    assert 300 <= timing.samples <= 350  # of 30 calls each


def test_samples_of_loud_windows_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    # a window lasts 0.3 s; `loads` are tenths of the seconds that others use
    world = World(iter([0.0, 0.01, 0.0] + [0.0] * 50))
    calls = {"A": [world.contestant("A", 0.01)]}
    race = interleaved(calls, seconds=0.9, clock=world.clock, read_load=world.read)
    assert race.dropped == 1
    assert race.windows == 3
    assert race.timings["A"].samples == 90
    assert race.quiet
    assert race.other_load == pytest.approx(0.0)


def test_where_it_is_never_quiet_everything_counts_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    world = World(iter([0.02] * 50))
    calls = {"A": [world.contestant("A", 0.01)]}
    race = interleaved(calls, seconds=0.9, clock=world.clock, read_load=world.read)
    assert not race.quiet
    assert race.dropped == 0
    assert race.other_load == pytest.approx(0.2 / 0.3, rel=0.1)
    assert race.timings["A"].samples >= 180  # it went on for twice the time, hoping


def test_nobody_to_time() -> None:
    with pytest.raises(ValueError, match="contestants must hold at least one"):
        interleaved({})


def test_statistics_of_a_known_sample() -> None:
    timing = Timing.of([4.0, 1.0, 3.0, 2.0, 10.0])
    assert (timing.median, timing.minimum, timing.maximum, timing.samples) == (3.0, 1.0, 10.0, 5)
    assert timing.spread == pytest.approx((4.0 - 2.0) / 3.0)
    assert Timing.of([7.0]) == Timing(7.0, 7.0, 7.0, 0.0, 1)
    with pytest.raises(ValueError, match="at least one number"):
        Timing.of([])


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=50), st.floats(0.5, 20.0))
def test_statistics_scale_with_the_unit(samples: list[float], factor: float) -> None:
    timing, scaled = Timing.of(samples), Timing.of([factor * s for s in samples])
    assert timing.minimum <= timing.median <= timing.maximum
    assert timing.spread >= 0.0
    assert scaled.median == pytest.approx(factor * timing.median)
    assert scaled.spread == pytest.approx(timing.spread, abs=1e-9)


def test_busy_seconds_counts_everything_but_idle_and_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_TICKS", 100)
    # user nice system idle iowait irq softirq steal guest guest_nice
    stat = "cpu  100 20 30 4000 500 6 7 37 90 9\ncpu0 1 2 3 4 5 6 7 8 0 0\n"
    assert busy_seconds(stat) == pytest.approx((100 + 20 + 30 + 6 + 7 + 37) / 100)
    with pytest.raises(ValueError, match="must start with 'cpu'"):
        busy_seconds("intr 1 2 3")


def test_other_load_is_what_this_process_did_not_use() -> None:
    before, after = Reading(100.0, 10.0, 50.0), Reading(101.0, 10.6, 51.0)
    assert other_load(before, after, processors=2) == pytest.approx(0.2)
    assert other_load(before, Reading(100.5, 10.6, 51.0), 2) == 0.0  # ticks are coarse: never below 0
    assert other_load(None, after, 2) is None
    assert other_load(before, before, 2) is None


def test_reading_the_load_here() -> None:
    reading = load.read()
    assert reading is None or reading.busy >= 0.0 <= reading.own

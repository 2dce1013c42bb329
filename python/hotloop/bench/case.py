"""What is timed: contestants that do one job on one shape, and how their results are compared afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hotloop.bench.machine import last_level_cache
from hotloop.bench.timing import Calls, Race, interleaved

FLOOR = "copy of the same bytes"
#: Sizes that real runs have: at least so many steps of agents. Below, one set of inputs stays in the cache.
REAL_STEPS = 65536
_MOST_SETS = 64

Result = Sequence[Tensor]


class DisagreementError(Exception):
    """A contestant's result differs from the expected one: its time means nothing."""


@dataclass
class Contestant:
    """Somebody who does the job of a case.

    `calls` holds one call for each set of inputs. `result` makes comparable tensors of what the first of them
    returned. `kind`: `floor`, `ours`, `peer` (another system's own code), `loop` (a few lines written here as
    that system, or a textbook, has them) or `torch` (torch's own functions).
    """

    name: str
    kind: str
    calls: Calls
    result: Callable[[Any], Result] | None = None
    note: str = ""
    rtol: float | None = None  # where it must differ from the case's, such as arithmetic in another order
    atol: float | None = None


@dataclass
class Case:
    """One job on one shape, `[rows, steps]`.

    `moved`: bytes that the job must read and write once; the floor copies half as many from here to there.
    `expected`: the result on the first set of inputs; tolerances are relative to its largest absolute entry.
    `check` is for what has no such result; it raises `DisagreementError`.
    """

    suite: str
    op: str
    shape: tuple[int, int]
    moved: int
    contestants: list[Contestant]
    layout: str = ""
    expected: Callable[[], Result] | None = None
    check: Callable[[], None] | None = None
    rtol: float = 2e-6
    absent: dict[str, str] = field(default_factory=dict)
    sets: int = 1

    @property
    def title(self) -> str:
        rows, steps = self.shape
        return f"{self.op} {rows}x{steps}" + (f" {self.layout}" if self.layout else "")


def sets_for(shape: tuple[int, int], moved: int, rotate: bool) -> int:
    """How many sets of inputs to go through: enough to fill the last level of cache twice, for sizes that
    real runs have; one for smaller ones, whose data a real loop finds in the cache too."""
    if not rotate or shape[0] * shape[1] < REAL_STEPS:
        return 1
    return max(2, min(_MOST_SETS, math.ceil(2 * last_level_cache() / max(1, moved))))


def floor(moved: int, sets: int) -> Contestant:
    """Copies of `moved` / 2 bytes into memory that exists already."""
    size = max(1, moved // 8)
    pairs = [(torch.ones(size), torch.zeros(size)) for _ in range(sets)]
    return Contestant(FLOOR, "floor", [_copy(source, target) for source, target in pairs])


def _copy(source: Tensor, target: Tensor) -> Callable[[], object]:
    return lambda: target.copy_(source)


def run_case(case: Case, seconds: float) -> dict[str, Any]:
    """Times a case and then compares results.

    Returns:
        The record that reports are made of: plain values.

    Raises:
        DisagreementError: somebody's result is wrong.
    """
    race = interleaved({c.name: c.calls for c in case.contestants}, seconds=seconds)
    if case.check is not None:
        case.check()
    return _record(case, race, dict(_compare(case)))


def _compare(case: Case) -> Iterator[tuple[str, tuple[float, float]]]:
    """For every contestant with a result: its largest difference, and what is allowed."""
    if case.expected is None:
        return
    expected = [tensor.double() for tensor in case.expected()]
    scale = max((float(e.abs().max()) for e in expected if e.numel()), default=1.0)
    for contestant in case.contestants:
        if contestant.result is None:
            continue
        got = contestant.result(contestant.calls[0]())
        rtol = case.rtol if contestant.rtol is None else contestant.rtol
        allowed = contestant.atol if contestant.atol is not None else rtol * max(1.0, scale)
        yield contestant.name, (_difference(case, contestant.name, got, expected, allowed), allowed)


def _difference(case: Case, name: str, got: Result, expected: Sequence[Tensor], allowed: float) -> float:
    if len(got) > len(expected) or not got:
        raise DisagreementError(f"{case.title}: {name} has {len(got)} results, expected {len(expected)}")
    largest = 0.0
    for tensor, wanted in zip(got, expected, strict=False):
        if tensor.shape != wanted.shape:
            raise DisagreementError(
                f"{case.title}: the result of {name} must be {list(wanted.shape)}, got {list(tensor.shape)}"
            )
        difference = float((tensor.double() - wanted).abs().max()) if tensor.numel() else 0.0
        if not difference <= allowed:  # NaN fails
            raise DisagreementError(
                f"{case.title}: {name} differs from the expected result by {difference:.3g}, allowed are "
                f"{allowed:.3g}"
            )
        largest = max(largest, difference)
    return largest


def _record(case: Case, race: Race, compared: dict[str, tuple[float, float]]) -> dict[str, Any]:
    base = race.timings[FLOOR].median if FLOOR in race.timings else None
    contestants = []
    for contestant in case.contestants:
        timing = race.timings[contestant.name]
        difference, allowed = compared.get(contestant.name, (None, None))
        contestants.append(
            {
                "name": contestant.name,
                "kind": contestant.kind,
                "median": timing.median,
                "minimum": timing.minimum,
                "maximum": timing.maximum,
                "spread": timing.spread,
                "samples": timing.samples,
                "to_floor": timing.median / base if base else None,
                "difference": difference,
                "allowed": allowed,
                "note": contestant.note,
            }
        )
    return {
        "suite": case.suite,
        "op": case.op,
        "shape": list(case.shape),
        "layout": case.layout,
        "title": case.title,
        "moved_bytes": case.moved,
        "input_sets": case.sets,
        "windows": race.windows,
        "dropped_windows": race.dropped,
        "other_load": race.other_load,
        "quiet": race.quiet,
        "absent": case.absent,
        "contestants": contestants,
    }

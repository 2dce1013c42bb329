"""One op on one shape, and how it is timed: called from Python, in a graph, beside a copy.

The copy moves as many bytes as the op must read and write once, in the same run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hotloop.bench.case import DisagreementError
from hotloop.bench.timing import Timing

from .runtime import Calls, Runtime

_MOST_SETS = 64
_SAMPLE = 300.0  # microseconds that a sample should take
_MOST_REPEATS = 256


@dataclass
class Case:
    """`calls`: one for each set of inputs. `moved`: bytes that a call must read and write once. `check`
    returns the largest difference from what is right, and what is allowed."""

    op: str
    shape: tuple[int, ...]
    moved: int
    calls: Calls
    check: Callable[[], tuple[float, float]] | None = None
    note: str = ""
    graphs: bool = True

    @property
    def title(self) -> str:
        return f"{self.op} {'x'.join(map(str, self.shape))}" + (f" {self.note}" if self.note else "")


def sets_for(moved: int, runtime: Runtime) -> int:
    """As many sets of inputs as fill the cache twice: a real loop does not find a rollout there."""
    return max(2, min(_MOST_SETS, math.ceil(2 * runtime.cache_bytes / max(1, moved))))


def run_case(case: Case, runtime: Runtime, rounds: int) -> dict[str, Any]:
    """Times a case in `rounds` rounds and compares its result. DisagreementError where that is wrong."""
    contestants: dict[str, tuple[Calls, int]] = {
        "copy of the same bytes": (_copies(case.moved, len(case.calls), runtime), 1),
        "called": (case.calls, 1),
    }
    if case.graphs:
        chosen = _in_turn(case.calls, max(len(case.calls), 8))
        contestants["in a graph"] = ([runtime.graph(chosen)], len(chosen))
        copies = _in_turn(contestants["copy of the same bytes"][0], max(len(case.calls), 8))
        contestants["copy, in a graph"] = ([runtime.graph(copies)], len(copies))
    samples = _samples(contestants, runtime, rounds)
    difference = allowed = None
    if case.check is not None:
        difference, allowed = case.check()
        if not difference <= allowed:  # NaN fails
            raise DisagreementError(
                f"{case.title}: the result differs by {difference:.3g}, allowed are {allowed:.3g}"
            )
    timings = {name: Timing.of(found) for name, found in samples.items()}
    floor, graph_floor = timings["copy of the same bytes"], timings.get("copy, in a graph")
    return {
        "op": case.op,
        "shape": list(case.shape),
        "title": case.title,
        "moved_bytes": case.moved,
        "input_sets": len(case.calls),
        "difference": difference,
        "allowed": allowed,
        "contestants": [
            {
                "name": name,
                "median": timing.median,
                "minimum": timing.minimum,
                "maximum": timing.maximum,
                "spread": timing.spread,
                "samples": timing.samples,
                "to_floor": timing.median
                / (graph_floor if graph_floor and "graph" in name else floor).median,
                "gigabytes_a_second": case.moved / timing.median / 1e3,
            }
            for name, timing in timings.items()
        ],
    }


def _samples(
    contestants: dict[str, tuple[Calls, int]], runtime: Runtime, rounds: int
) -> dict[str, list[float]]:
    """Microseconds a call, everybody in turn."""
    repeats = {}
    for name, (calls, each) in contestants.items():
        for _ in range(2):
            cost = runtime.microseconds(_in_turn(calls, max(2, min(len(calls), 8))))
        repeats[name] = max(1, min(_MOST_REPEATS, math.ceil(_SAMPLE / max(cost, 0.1))))
        repeats[name] = max(repeats[name], 1 if each > 1 else 2)
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name, (calls, each) in contestants.items():
            chosen = _in_turn(calls, repeats[name], turn * repeats[name])
            samples[name].append(runtime.microseconds(chosen) / each)
    return samples


def _in_turn(calls: Calls, count: int, first: int = 0) -> list[Callable[[], object]]:
    return [calls[(first + i) % len(calls)] for i in range(count)]


def _copies(moved: int, sets: int, runtime: Runtime) -> list[Callable[[], object]]:
    """Copies of half as many bytes from here to there."""
    size = max(1, moved // 2)
    return [
        _copy(*(torch.zeros(size, dtype=torch.uint8, device=runtime.device) for _ in range(2)))
        for _ in range(sets)
    ]


def _copy(target: Tensor, source: Tensor) -> Callable[[], object]:
    return lambda: target.copy_(source)


def largest_difference(got: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[float, float]:
    """The largest difference, and the largest number that was expected."""
    pairs = [
        (one.detach().cpu().double(), two.detach().cpu().double())
        for one, two in zip(got, expected, strict=True)
    ]
    difference = max((float((one - two).abs().max()) for one, two in pairs if one.numel()), default=0.0)
    return difference, max((float(two.abs().max()) for _, two in pairs if two.numel()), default=1.0)

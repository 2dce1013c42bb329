"""For benchmarks that time something of their own, which no suite of `hotloop.bench` has: contestants in turn
in this process, a table, a file; statistics and the machine as `hotloop bench` has them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from hotloop.bench.machine import describe
from hotloop.bench.table import microseconds
from hotloop.bench.timing import Timing

__all__ = ["RESULTS", "Timing", "interleaved", "report", "save"]

RESULTS = Path(__file__).parent / "results"


def interleaved(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int = 200, calls: int = 1
) -> dict[str, Timing]:
    """Microseconds a call over `rounds` rounds; each times `calls` calls of every contestant in turn."""
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for function in contestants.values():  # warm-up: caches, pages, lazy set-up
        for _ in range(calls):
            function()
    for _ in range(rounds):
        for name, function in contestants.items():
            start = time.perf_counter()
            for _ in range(calls):
                function()
            samples[name].append((time.perf_counter() - start) / calls * 1e6)
    return {name: Timing.of(taken) for name, taken in samples.items()}


def report(title: str, timings: Mapping[str, Timing], baseline: str) -> str:
    """A table with every contestant's ratio to `baseline`."""
    width = max(map(len, timings))
    lines = [title]
    for name, t in timings.items():
        limits = f"[{microseconds(t.minimum)}, {microseconds(t.maximum)}]"
        ratio = t.median / timings[baseline].median
        lines.append(f"  {name:<{width}}  {microseconds(t.median):>8}  {limits:<20}  {ratio:6.2f}x")
    return "\n".join(lines)


def save(name: str, groups: Mapping[str, Mapping[str, Timing]]) -> Path:
    """Writes the timings with the machine under benchmarks/results/."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    found = {group: {n: asdict(t) for n, t in timings.items()} for group, timings in groups.items()}
    path.write_text(json.dumps({"machine": describe(), "microseconds": found}, indent=1) + "\n")
    return path

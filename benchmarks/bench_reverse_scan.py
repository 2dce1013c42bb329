"""`reverse_scan` beside a copy of its two inputs and its output, and a loop over time."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from support import measure


def test_reverse_scan(benchmark: BenchmarkFixture, threads: int) -> None:
    measure(benchmark, "advantages", "reverse_scan", threads)

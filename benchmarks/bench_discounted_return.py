"""`discounted_return` beside a copy of its inputs and its output, and a loop over time."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from support import measure


def test_discounted_return(benchmark: BenchmarkFixture, threads: int) -> None:
    measure(benchmark, "advantages", "discounted_return", threads)

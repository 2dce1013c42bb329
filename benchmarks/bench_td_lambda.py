"""`td_lambda` beside a copy of its inputs and its output, and a loop over time."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from support import measure


def test_td_lambda(benchmark: BenchmarkFixture, threads: int) -> None:
    measure(benchmark, "advantages", "td_lambda", threads)

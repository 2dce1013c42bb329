"""`puff_advantage` beside a copy of its four inputs and one output, and a loop over time."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from support import measure


def test_puff_advantage(benchmark: BenchmarkFixture, threads: int) -> None:
    measure(benchmark, "advantages", "puff_advantage", threads)

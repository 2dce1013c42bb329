"""`gae`, batch-major and time-major, beside a copy of its bytes and a loop over time."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from support import measure


def test_gae(benchmark: BenchmarkFixture, threads: int) -> None:
    measure(benchmark, "advantages", "gae", threads)

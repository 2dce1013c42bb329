"""One rollout step into the buffer: `StorePlan` and `Experience.store`."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from support import measure


def test_store(benchmark: BenchmarkFixture, threads: int) -> None:
    measure(benchmark, "store", "store", threads)

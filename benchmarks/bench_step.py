"""All the bookkeeping of a rollout step, beside the reference loop's."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from support import measure


def test_step(benchmark: BenchmarkFixture, threads: int) -> None:
    measure(benchmark, "step", "step", threads)

"""A whole prioritised minibatch: priorities, draw, weights and `gather` of every key."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from support import measure


def test_minibatch(benchmark: BenchmarkFixture, threads: int) -> None:
    measure(benchmark, "sampling", "minibatch", threads)

"""What a call costs before any work is done: the smallest op beside torch's own smallest op."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from support import measure


def test_call_overhead(benchmark: BenchmarkFixture) -> None:
    measure(benchmark, "call", "call", 1)

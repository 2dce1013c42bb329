"""`vtrace` beside a copy of its five inputs and two outputs, and a loop over time."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from support import measure


def test_vtrace(benchmark: BenchmarkFixture, threads: int) -> None:
    measure(benchmark, "advantages", "vtrace", threads)

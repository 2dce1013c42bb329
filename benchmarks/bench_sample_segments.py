"""`sample_segments`: every law beside torch's generators."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from support import measure


def test_sample_segments(benchmark: BenchmarkFixture, threads: int) -> None:
    measure(benchmark, "sampling", "draw", threads)

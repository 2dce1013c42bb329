"""What the files beside this one share: they hand a job to `hotloop.bench`, keep what comes back, and fail
where a result is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from hotloop.bench import runner, table
from hotloop.bench.suite import Options
from hotloop.bench.suites import SUITES
from interleave import RESULTS

_REPORTS: dict[str, dict[str, Any]] = {}


def measure(benchmark: BenchmarkFixture, suite: str, op: str, threads: int, *, peers: bool = False) -> None:
    """Runs an op's cases on their default shapes, in a process with so many threads; writes what was found so
    far to benchmarks/results/<op>.json. `benchmark` then times the smallest case's call of ours, in this
    process and on one thread, so that pytest-benchmark can compare runs."""
    plan = runner.Plan((suite,), threads=(threads,), options=Options(only=(op,), peers=peers))

    def show(event: Mapping[str, Any]) -> None:
        if event["event"] == "case":
            print("\n" + table.plain_case(event["record"], threads, "default"), flush=True)

    report = runner.run(plan, show)
    known = _REPORTS.setdefault(op, {**report, "runs": []})
    known["runs"] += report["runs"]
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{op}.json"
    path.write_text(json.dumps(known, indent=1) + "\n")
    print(f"\nwritten to {path}")
    (run,) = report["runs"]
    for entry in run["absent"]:
        pytest.skip(entry["why"])
    assert run["wrong"] == []
    assert run["cases"], f"the suite {suite} has no cases for {op}"
    benchmark.extra_info["x floor"] = {
        case["title"]: {c["name"]: c["to_floor"] for c in case["contestants"]} for case in run["cases"]
    }
    _in_this_process(benchmark, suite, op)


def _in_this_process(benchmark: BenchmarkFixture, suite: str, op: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        case = next(SUITES[suite](Options(only=(op,))))
        ours = next(contestant for contestant in case.contestants if contestant.kind == "ours")
        benchmark.pedantic(ours.calls[0], rounds=50, iterations=20, warmup_rounds=2)
    finally:
        torch.set_num_threads(before)

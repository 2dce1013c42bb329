"""The benchmarks of a GPU, without one: nothing silly may stop their first run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.gpu import loop_cases, ops_cases
from benchmarks.gpu.case import Case, run_case, sets_for
from benchmarks.gpu.command import main
from benchmarks.gpu.ops_cases import SHAPES, absent, cases
from benchmarks.gpu.runtime import facts, obstacle

from cuda_host_support import host_module
from device_support import fake_device
from hotloop.bench.case import DisagreementError

ROOT = Path(__file__).parent.parent
MACHINE = (
    "device", "compute_capability", "memory_bytes", "multiprocessors", "driver", "clocks", "torch",
    "torch_cuda", "commit", "date",
)  # fmt: skip


class FakeRuntime:
    """Host memory, a clock that goes forward by a microsecond a call, graphs that call again."""

    device = torch.device("cpu")
    cache_bytes = 1 << 12

    def __init__(self) -> None:
        self.calls = 0
        self.graphs = 0

    def microseconds(self, calls: Any) -> float:
        for call in calls:
            call()
        self.calls += len(calls)
        return 100.0

    def graph(self, calls: Any) -> Callable[[], object]:
        self.graphs += 1
        return lambda: [call() for call in calls]

    def synchronize(self) -> None:
        pass


def run(*argv: str) -> int:
    return main(list(argv), why_not=lambda: None, make_runtime=FakeRuntime)


def test_everything_runs_once_and_the_figures_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_device():
        assert run("--quick", "--rounds", "1", "--json", str(tmp_path / "gpu.json")) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["format"] == 1
    assert set(report["machine"]) == set(MACHINE)
    assert report["settings"] == {"rounds": 1, "quick": True, "suites": ["ops", "loops"]}
    ops = {record["op"] for record in report["ops"]}
    wanted = {"puff_advantage", "gae", "importance_ratio", "sample_segments", "store_", "gather", "scatter_"}
    assert wanted | {"categorical_evaluate", "gaussian_sample", "ppo_loss", "optim.Adam.step"} <= ops
    for record in report["ops"]:
        names = [each["name"] for each in record["contestants"]]
        assert names[:2] == ["copy of the same bytes", "called"]
        for each in record["contestants"]:
            assert each["median"] > 0
            assert each["to_floor"] > 0
            assert each["gigabytes_a_second"] > 0
        assert record["difference"] is None or record["difference"] <= record["allowed"]
    assert [record["job"] for record in report["loops"]] == ["E1", "E3"]
    assert all(record["steps_per_second"] > 0 for record in report["loops"])
    out = capsys.readouterr().out
    assert "puff_advantage 64x16" in out
    assert "agent steps a second" in out


def test_without_a_gpu_it_says_so_and_exits_with_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = obstacle()
    if reason is None:
        pytest.skip("there is a GPU here")
    assert main(["--json", str(tmp_path / "gpu.json")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m benchmarks.gpu: error: needs an NVIDIA GPU, and torch ")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "gpu.json").exists()


def test_the_module_itself_exits_with_two() -> None:
    if obstacle() is None:
        pytest.skip("there is a GPU here")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "needs an NVIDIA GPU" in done.stderr
    assert done.stdout == ""


def test_a_wrong_result_is_told_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(runtime: Any, quick: bool) -> Any:
        yield Case("fine", (1,), 8, [lambda: None])
        yield Case("odd", (2, 3), 8, [lambda: None], check=lambda: (1.0, 0.5))
        yield Case("broken", (1,), 8, [broken])
        yield Case("also fine", (1,), 8, [lambda: None])

    def broken() -> None:
        raise RuntimeError("not here")

    monkeypatch.setattr("benchmarks.gpu.command.cases", wrong)
    assert run("--suites", "ops", "--rounds", "1", "--json", str(tmp_path / "gpu.json")) == 1
    said = capsys.readouterr().err
    assert "odd 2x3: the result differs by 1, allowed are 0.5" in said
    assert "broken 1: not here" in said
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert [record["op"] for record in report["ops"]] == ["fine", "also fine"]
    assert len(report["errors"]) == 2


def test_every_case_checks_what_it_can() -> None:
    """A case whose op did nothing would be found out."""
    checked = 0
    for case in cases(FakeRuntime(), quick=True):
        if case.check is not None:
            difference, allowed = case.check()
            assert difference <= allowed
            checked += 1
    assert checked >= 8


def test_nan_is_wrong() -> None:
    case = Case("odd", (1,), 8, [lambda: None], check=lambda: (float("nan"), 1.0))
    with pytest.raises(DisagreementError):
        run_case(case, FakeRuntime(), 1)


def test_mistakes_in_the_arguments_end_with_two(tmp_path: Path) -> None:
    for arguments in (["--rounds", "0"], ["--suites", "x"], ["--json", str(tmp_path / "no" / "x.json")]):
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
        assert caught.value.code == 2


def test_the_shapes_take_every_kernel_that_a_batch_of_rows_can() -> None:
    paths = {host_module().scan_path(rows, steps, False, False) for rows, steps in SHAPES}
    assert paths == {"packed", "tile", "warp", "block", "chunks"}
    assert {(8192, 1024), (32768, 8)} <= set(SHAPES)


def test_sets_fill_the_cache_twice() -> None:
    runtime = FakeRuntime()
    assert sets_for(1 << 12, runtime) == 2
    assert sets_for(1 << 10, runtime) == 8
    assert sets_for(1, runtime) == 64
    assert sets_for(1 << 30, runtime) == 2


def test_what_has_no_kernel_is_named() -> None:
    assert absent(torch.device("cpu")) == {}
    assert absent(torch.device("meta"))["gae"] == "has no CUDA kernel"
    assert set(facts()) == set(MACHINE)


def test_a_captured_loop_is_asked_for_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def fake(name: str, runtime: Any, *, captured: bool, rounds: int, quick: bool) -> dict[str, Any]:
        seen.append(captured)
        figures = {"steps_per_second": 1.0, "rollout": 1.0, "training": 1.0}
        return {"job": name, "title": name, **figures}

    monkeypatch.setattr("benchmarks.gpu.command.run_loop", fake)
    monkeypatch.setattr("benchmarks.gpu.command.can_capture", lambda device: True)
    assert run("--suites", "loops") == 0
    assert seen == [False, True] * len(loop_cases.LOOP_JOBS)
    assert not loop_cases.can_capture(torch.device("cpu"))
    assert ops_cases.LAWS[0] == "sequential"


def test_the_makefile_runs_it() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\nbench-gpu:")[2].partition("\n\n")[0]
    assert "-m benchmarks.gpu --json benchmarks/results/gpu_bench.json" in recipe

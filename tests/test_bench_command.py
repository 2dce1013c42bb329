"""The command line `hotloop bench`, from its arguments to the files it writes."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import hotloop
from hotloop import __main__ as program
from hotloop.bench import command, explain, runner, worker
from hotloop.bench.command import BenchCommand, bench, make_plan, parse_shapes
from hotloop.bench.estimators import BATCH, ESTIMATORS, TIME, Estimator
from hotloop.bench.machine import usable_cores
from hotloop.bench.suites import SUITES

ENGINE = Path(hotloop.__file__).parents[2] / "csrc/cpu/scan_engine.h"


def test_shapes() -> None:
    assert parse_shapes("4096x128, 64X64,8x1", "shapes") == ((4096, 128), (64, 64), (8, 1))


@pytest.mark.parametrize("text", ["8", "8x", "x8", "8x8x8", "0x8", "-8x8", "8x8,", "", "axb", "8.0x8", "²x8"])
def test_a_shape_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="--shapes must be rows x steps"):
        parse_shapes(text, "shapes")


def test_the_plan_of_the_defaults() -> None:
    plan = make_plan(BenchCommand())
    assert plan.suites == tuple(SUITES)
    assert plan.threads == ((1, 2) if usable_cores() > 1 else (1,))
    assert (plan.malloc, plan.seconds) == (("default",), 0.5)
    options = plan.options
    assert (options.shapes, options.peers, options.rotate, options.only) == (None, False, True, None)


def test_the_plan_of_every_option() -> None:
    given = BenchCommand(
        suite="call, store", shapes="8x8", threads="1", ops="gae,store", peers=True, seconds=2.0,
        malloc="both", repeat_inputs=True,
    )  # fmt: skip
    plan = make_plan(given)
    assert (plan.suites, plan.threads, plan.malloc) == (("call", "store"), (1,), ("default", "keep"))
    options = plan.options
    assert (options.shapes, options.peers, options.rotate) == (((8, 8),), True, False)
    assert options.only == ("gae", "store")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--suite", "advantage"],
            "--suite must be of advantages, sampling, store, step, call, got 'advantage'",
        ),
        (["--suite", ""], "got ''"),
        (["--shapes", "64"], "--shapes must be rows x steps, both positive, such as 4096x128, got '64'"),
        (["--threads", "0"], "--threads must be between 1 and"),
        (["--threads", "1,9999"], "got '9999'"),
        (["--threads", "two"], "got 'two'"),
        (["--ops", "gae,gea"], "got 'gea'"),
        (["--malloc", "mimalloc"], "--malloc must be of default, keep, got 'mimalloc'"),
        (["--seconds", "0"], "--seconds must be above 0"),
        (["--seconds", "nan"], "--seconds must be above 0"),
        (["--json", "/nowhere/at/all.json"], "there is no folder /nowhere/at"),
        (["--html", "/nowhere/at/all.html"], "there is no folder /nowhere/at"),
        (["--explain", "8x8,9x9"], "--explain takes one shape"),
        (["--explain", "8"], "--explain must be rows x steps"),
    ],
)
def test_a_mistake_ends_with_2_and_says_what(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be measured")

    monkeypatch.setattr(subprocess, "Popen", never)
    assert bench(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("hotloop bench: error: ")
    assert message in captured.err
    assert captured.out == ""


def test_an_unknown_option_ends_with_2() -> None:
    with pytest.raises(SystemExit) as ended:
        bench(["--shape", "8x8"])
    assert ended.value.code == 2


def test_without_tyro_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tyro" else find(name))
    assert program.main(["bench", "--suite", "call"]) == 2
    assert "pip install 'hotloop[bench]'" in capsys.readouterr().err


def test_the_program_lists_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--help"]) == 0
    assert re.search(r"^  bench +\w", capsys.readouterr().out, re.MULTILINE)


def test_end_to_end(tmp_path: Path) -> None:
    """The tiny run: one worker process, a table, the figures and the report."""
    figures, page = tmp_path / "out.json", tmp_path / "report.html"
    result = subprocess.run(
        [
            sys.executable, "-m", "hotloop", "bench", "--shapes", "8x8", "--suite", "call,advantages",
            "--ops", "call,gae,vtrace", "--threads", "1", "--seconds", "0.01",
            "--json", str(figures), "--html", str(page),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads(figures.read_text())
    assert report["format"] == runner.FORMAT
    assert report["machine"]["torch_threads"] == 1
    (run,) = report["runs"]
    assert (run["threads"], run["malloc"], run["wrong"]) == (1, "default", [])
    assert run["environment"]["OMP_NUM_THREADS"] == "1"
    titles = [case["title"] for case in run["cases"]]
    there = hasattr(hotloop.ops, "vtrace")
    assert titles == [
        "call 8x8",
        "gae 8x8 batch-major",
        "gae 8x8 time-major",
        *(["vtrace 8x8 batch-major"] if there else []),
    ]
    for case in run["cases"]:
        assert case["title"] in result.stdout
        for contestant in case["contestants"]:
            assert contestant["name"] in result.stdout
            assert 0 < contestant["minimum"] <= contestant["median"] <= contestant["maximum"]
    missing = [entry["op"] for entry in run["absent"]]
    assert missing == ([] if there else ["vtrace"])
    assert all(f"not measured: {op}" in result.stdout for op in missing)
    assert page.read_text().count("<svg") == len(titles)


def fake_events(*lines: dict[str, Any]) -> Any:
    return lambda job, env: iter(lines)


def test_a_wrong_result_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"event": "wrong", "suite": "call", "title": "call 8x8", "message": "gae differs by 3"}
    monkeypatch.setattr(runner, "events", fake_events(wrong))
    assert bench(["--suite", "call", "--threads", "1"]) == 1
    assert "WRONG RESULT: gae differs by 3" in capsys.readouterr().out


def test_nothing_measured_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "events", fake_events())
    assert bench(["--suite", "call", "--ops", "gae", "--threads", "1"]) == 2
    assert "nothing was measured" in capsys.readouterr().err


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The worker's work without its process, which takes seconds to start."""

    def events(job: dict[str, Any], env: dict[str, str]) -> Iterator[dict[str, Any]]:
        told: list[dict[str, Any]] = []
        with warnings.catch_warnings():
            given = json.loads(json.dumps(job))
            code = worker.serve(given, lambda event, **fields: told.append({"event": event, **fields}))
        last = told.pop()
        assert (code, last["event"]) in ((0, "done"), (1, "error"))
        yield from told
        if last["event"] == "error":
            raise runner.WorkerError(last["message"])

    monkeypatch.setattr(runner, "events", events)
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    yield
    torch.set_num_threads(threads)
    torch.set_grad_enabled(grad)


@pytest.mark.usefixtures("in_process")
def test_what_a_worker_cannot_do_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(["--suite", "sampling", "--shapes", "6x8", "--threads", "1"]) == 1
    assert "rows must be a multiple of 4 (minibatches), got 6x8" in capsys.readouterr().err


def test_a_worker_that_dies_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\ncat > /dev/null\nexit 7\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    with pytest.raises(runner.WorkerError, match="ended with code 7"):
        list(runner.events({}, {}))


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    assert bench(["--suite", "call"]) == 130


def test_a_reader_that_leaves_causes_no_traceback(tmp_path: Path) -> None:
    """`hotloop bench | head -n 0`, with a worker that only says what the machine is."""
    code = (
        "import sys; from hotloop.bench import command, machine, runner\n"
        "told = [{'event': 'machine', 'machine': machine.describe()}] * 2\n"
        "runner.events = lambda job, env: iter(told)\n"
        "sys.exit(command.bench(['--suite', 'call', '--threads', '1']))"
    )
    script = f"{sys.executable} -c {shlex.quote(code)} | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.usefixtures("in_process")
def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(["--explain", "16x200", "--threads", "1", "--seconds", "0.02"]) == 0
    out = capsys.readouterr().out
    assert "puff_advantage 16x200 batch-major" in out
    assert "blocks of 16 rows, each in 2 tiles of up to 128 steps" in out
    assert "gae 16x200 time-major" in out
    assert "1 of 1: one thread was asked for" in out
    assert "64 kB: reads values, rewards, dones, importance; writes 1 result" in out
    assert re.search(r"a copy of as many bytes moves \d+\.\d GB/s", out)


@pytest.mark.skipif(not ENGINE.exists(), reason="an installed package carries no C++ sources")
def test_explain_knows_the_engines_constants() -> None:
    source = ENGINE.read_text() + (ENGINE.parent / "scan_tile.h").read_text()
    found = {name: int(value) for name, value in re.findall(r"constexpr int64_t (k\w+) = (\d+);", source)}
    assert (found["kRows"], found["kChunk"], found["kLanes"]) == (
        explain.TILE_ROWS,
        explain.TILE_STEPS,
        explain.LANES,
    )
    assert "values.row_stride == 1 && values.time_stride != 1" in source


@pytest.mark.skipif(not ENGINE.exists(), reason="an installed package carries no C++ sources")
@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e.available], ids=lambda e: e.op)
def test_explain_weighs_work_as_the_kernels_do(estimator: Estimator) -> None:
    """`run_departure(..., arrays)`, or `bytes = rows * horizon * arrays * sizeof(T)`."""
    stem = {"discounted_return": "td_lambda"}.get(estimator.op, estimator.op)
    source = (ENGINE.parent / f"{stem}.cpp").read_text()
    found = re.findall(r"run_departure<\w+>\(.*, (\d+)\);|bytes = .*horizon \* (\d+) \* static_cast", source)
    arrays = {int(one or two) for one, two in found}
    assert estimator.grain_arrays in arrays


def test_paths() -> None:
    batch = explain.path(BATCH, (4096, 128), 10_485_760, 2, 1 << 18)
    assert (batch["path"], batch["blocks"], batch["threads_used"]) == ("batch-major tiles", 256, 2)
    assert batch["serial_because"] is None
    lanes = explain.path(TIME, (300, 64), 384_000, 2, 1 << 18)
    assert (lanes["path"], lanes["blocks"], lanes["threads_used"]) == ("time-major lanes", 2, 2)
    small = explain.path(BATCH, (64, 64), 81_920, 2, 1 << 18)
    assert (small["threads_used"], small["serial_because"]) == (1, "81.9 kB are below the grain of 0.262 MB")
    assert explain.path(BATCH, (8, 9999), 1 << 20, 2, 1 << 18)["serial_because"] == "there is one block"
    assert explain.path(TIME, (1, 64), 1280, 1, 1 << 18)["path"] == "batch-major tiles"


def test_every_option_has_a_description() -> None:
    assert set(command.known_ops()) >= {"gae", "draw", "minibatch", "store", "step", "call"}

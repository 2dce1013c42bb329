"""`hotloop doctor`, and the commands that must work without the packages that training needs."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch

import hotloop
import hotloop.ops
from hotloop import __main__, doctor

EXTRAS = ("gymnasium", "matplotlib", "rich", "tensorboard", "tyro", "yaml")


def run(*arguments: str, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in which the modules `without` cannot be imported."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(','), None)); "
        "import runpy; sys.argv[0] = 'hotloop'; runpy.run_module('hotloop', run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", code, ",".join(without or ("_",)), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_doctor_works_without_the_extras_and_says_all() -> None:
    result = run("doctor", without=EXTRAS)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Training on the CPU can work." in result.stdout
    for fact in (
        hotloop.__version__,
        torch.__version__,
        np.__version__,
        os.path.dirname(torch.__file__),
        "DLPack exchange API   yes",
        "instruction set",
        "OpenMP runtimes",
        "self test             passed: puff_advantage",
    ):
        assert fact in result.stdout


def test_version_works_without_the_extras() -> None:
    result = run("--version", without=EXTRAS)
    assert (result.returncode, result.stdout) == (0, f"hotloop {hotloop.__version__}\n")


@pytest.mark.parametrize("argument", ["--help", "-h", "help"])
def test_help_names_the_commands(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main([argument]) == 0
    output = capsys.readouterr().out
    assert "usage: hotloop" in output
    assert "train" in output
    assert "doctor" in output


def test_train_without_the_extras_says_what_to_install() -> None:
    result = run("train", without=("rich", "tyro"))
    assert result.returncode == 2
    assert "not installed: rich, tyro" in result.stderr
    assert "pip install 'hotloop[train]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_train_gets_the_arguments_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from hotloop import cli

    got: list[list[str]] = []
    monkeypatch.setattr(cli, "train", lambda argv: got.append(argv) or 130)
    assert __main__.main(["train", "--seed", "3"]) == 130
    assert got == [["--seed", "3"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a command is missing"),
        (["fly"], "there is no command 'fly'"),
        (["doctor", "now"], "doctor takes no arguments, got now"),
    ],
)
def test_mistakes_in_the_command_line_exit_with_2(
    arguments: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(arguments) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert "usage: hotloop" in output.err
    assert output.out == ""


def test_report_agrees_with_what_it_reports_on() -> None:
    facts = doctor.report()
    assert facts["ok"]
    assert facts["problems"] == []
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["core"]["isa"] in facts["core"]["isas_supported"]
    assert facts["core"]["isas_supported"][0] == "baseline"
    assert facts["threads"]["torch"] == torch.get_num_threads()
    assert facts["check"]["passed"]


def test_threads_follow_torch() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        threads = doctor.report()["threads"]
    finally:
        torch.set_num_threads(before)
    assert threads["torch"] == before + 1
    assert threads["hotloop"] == before + 1


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_a_wrong_result_of_the_native_op_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: float
) -> None:
    native = hotloop.ops.puff_advantage
    monkeypatch.setattr(hotloop.ops, "puff_advantage", lambda *arguments: native(*arguments) + error)
    assert doctor.main() == 1
    output = capsys.readouterr().out
    assert "problem: puff_advantage differs from its reference" in output
    assert "FAILED" in output
    assert "cannot work" in output


def test_a_crash_of_the_native_op_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("bad build")

    monkeypatch.setattr(hotloop.ops, "puff_advantage", fail)
    assert doctor.report()["problems"] == ["puff_advantage failed: RuntimeError: bad build"]


@pytest.mark.parametrize("module", ["hotloop._core", "torch", "tensordict", "pydantic"])
def test_a_module_that_does_not_import_is_a_problem_and_no_crash(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert doctor.main() == 1
    assert any(
        line.startswith("problem: ") and module in line for line in capsys.readouterr().out.splitlines()
    )


def test_a_torch_without_the_exchange_api_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.Tensor, "__dlpack_c_exchange_api__")
    assert any("install torch 2.10 or newer" in problem for problem in doctor.report()["problems"])


MAPS = """\
7f00-7f01 r-xp 00000000 08:01 11   /venv/torch/lib/libgomp.so.1
7f01-7f02 r--p 00001000 08:01 11   /venv/torch/lib/libgomp.so.1
7f02-7f03 r-xp 00000000 08:01 12   /with a space/numpy.libs/libgomp-a34b3233.so.1.0.0
7f03-7f04 r-xp 00000000 08:01 13   /opt/intel/libiomp5.so
7f04-7f05 r-xp 00000000 08:01 14   /opt/llvm/libomp.so (deleted)
7f05-7f06 r-xp 00000000 08:01 15   /opt/llvm/libomptarget.so
7f06-7f07 r-xp 00000000 08:01 16   /opt/libgomp/unrelated.so
7f07-7f08 rw-p 00000000 00:00 0
7f08-7f09 rw-p 00000000 00:00 0    [heap]
"""


def test_openmp_runtimes_are_found_by_their_files() -> None:
    assert doctor.openmp_runtimes(MAPS) == [
        "/opt/intel/libiomp5.so",
        "/opt/llvm/libomp.so (deleted)",
        "/venv/torch/lib/libgomp.so.1",
        "/with a space/numpy.libs/libgomp-a34b3233.so.1.0.0",
    ]
    assert doctor.openmp_runtimes("") == []


@pytest.mark.parametrize(
    ("runtimes", "warned"), [(None, False), ([], False), (["/a/libgomp.so.1"], False), (["/a", "/b"], True)]
)
def test_more_than_one_openmp_runtime_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, runtimes: Any, warned: bool
) -> None:
    monkeypatch.setattr(doctor, "openmp_runtimes", lambda: runtimes)
    facts = doctor.report()
    assert (
        any("2 OpenMP runtimes are in one process (/a, /b)" in text for text in facts["warnings"]) == warned
    )
    assert facts["ok"]


def test_missing_extras_are_a_warning_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "rich" else "1.0")
    facts = doctor.report()
    assert "hotloop train needs rich: pip install 'hotloop[train]'" in facts["warnings"]
    assert facts["ok"]


class FakeDriver:
    """A driver whose cuInit answers `code`."""

    def __init__(self, code: int) -> None:
        self.code = code

    def __call__(self, name: str) -> FakeDriver:
        return self

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.code


def fake_cuda(
    monkeypatch: pytest.MonkeyPatch,
    *,
    built: bool = True,
    torch_cuda: str | None = "13.0",
    code: int = 0,
    obstacle: str | None = None,
):
    module = types.ModuleType("hotloop._cuda")
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    module.build_info = lambda: {"cuda": "13.0", "archs": "90"}  # type: ignore[attr-defined]
    module.device_obstacle = lambda: obstacle  # type: ignore[attr-defined]
    if built:
        monkeypatch.setitem(sys.modules, "hotloop._cuda", module)
    else:
        monkeypatch.setattr(doctor, "_has_module", lambda name: False)
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    available = torch_cuda is not None and code == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(available))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"device {index}")
    monkeypatch.setattr(ctypes, "CDLL", FakeDriver(code))
    return doctor.report()["cuda"]


def test_cuda_is_usable_when_nothing_is_in_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = fake_cuda(monkeypatch)
    assert cuda == {
        "built": True,
        "build": {"cuda": "13.0", "archs": "90"},
        "usable": True,
        "torch_cuda": "13.0",
        "devices": ["device 0"],
        "obstacles": [],
    }


@pytest.mark.parametrize(
    ("facts", "obstacle"),
    [
        ({"built": False}, "this hotloop was built without CUDA"),
        ({"torch_cuda": None}, "is a CPU build: torch.version.cuda is None"),
        ({"obstacle": "too old"}, "hotloop._cuda finds no device: too old"),
        ({"code": 100}, "the NVIDIA driver answers error 100: the driver finds no device"),
        ({"code": 12345}, "the NVIDIA driver answers error 12345: see cuInit"),
    ],
)
def test_each_obstacle_to_cuda_is_named(monkeypatch: pytest.MonkeyPatch, facts: Any, obstacle: str) -> None:
    cuda = fake_cuda(monkeypatch, **facts)
    assert not cuda["usable"]
    assert len(cuda["obstacles"]) == 1
    assert obstacle in cuda["obstacles"][0]


def test_hidden_devices_are_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "(CUDA_VISIBLE_DEVICES='')" in fake_cuda(monkeypatch, code=100)["obstacles"][0]


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", fail)
    obstacles = doctor.report()["cuda"]["obstacles"]
    assert any("there is no NVIDIA driver here: " in text and "cannot open" in text for text in obstacles)


def test_a_cuda_module_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_has_module", lambda name: True)
    monkeypatch.setitem(sys.modules, "hotloop._cuda", None)
    assert any("hotloop._cuda does not load: " in text for text in doctor.report()["cuda"]["obstacles"])

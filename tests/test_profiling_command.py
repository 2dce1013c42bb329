"""`hotloop profile -- COMMAND`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hotloop.__main__ import main
from hotloop.profiling.launch import CommandError, resolve

SCRIPT = """
import sys, torch
net = torch.nn.Linear(2, 2)
net(torch.zeros(1, 2)).sum().backward()
print("arguments", sys.argv[1:], __name__)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "trainer.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize("interpreter", [[], ["python"], [sys.executable]])
def test_a_script_is_run_as_itself(
    script: Path, interpreter: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = list(sys.argv), list(sys.path)
    assert main(["profile", "--", *interpreter, str(script), "3", "--seed", "1"]) == 3
    assert (sys.argv, sys.path) == before
    printed = capsys.readouterr().out
    assert "arguments ['3', '--seed', '1'] __main__" in printed
    assert "policy, training" in printed
    assert "The phases add up to" in printed
    assert "100.0% of the wall time" in printed


def test_a_module_is_run(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(script.parent))
    assert main(["profile", "--", "-m", "trainer", "0"]) == 0
    assert "arguments ['0'] __main__" in capsys.readouterr().out


def test_reports_are_written(script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {kind: tmp_path / f"p.{kind}" for kind in ("json", "html")}
    arguments = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    assert main(["profile", *arguments, "--trace", str(tmp_path / "t.json"), "--", str(script), "0"]) == 0
    report = json.loads(files["json"].read_text())
    assert sum(phase["seconds"] for phase in report["phases"]) == pytest.approx(report["wall"])
    assert "</html>" in files["html"].read_text()
    assert "traceEvents" in json.loads((tmp_path / "t.json").read_text())
    assert f"written: {files['html']}" in capsys.readouterr().out


def test_the_console_script_of_hotloop_is_known() -> None:
    _, argv = resolve(["hotloop", "train", "--seed", "1"])
    assert argv[1:] == ["train", "--seed", "1"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "a command is missing behind --"),
        (["python"], "a command is missing behind --"),
        (["-m"], "-m needs the name of a module"),
        (["python", "-c", "pass"], "of Python's options only -m is understood, got -c"),
        (["no_such_command"], "there is no file and no command 'no_such_command'"),
        (["ls"], "is no Python program"),
    ],
)
def test_what_is_no_python_program_is_refused(
    command: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CommandError, match=message):
        resolve(command)
    assert main(["profile", "--", *command]) == 2
    told = capsys.readouterr().err
    assert told.startswith("hotloop profile: error: ")
    assert message in told


@pytest.mark.parametrize("name", ["nonsense", "no.such.module:Env.step", "gymnasium:Env.no_such"])
def test_an_environment_that_there_is_not_is_refused(
    name: str, script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "--environment", name, "--", str(script), "0"]) == 2
    assert f"--environment must be module:Class.method, got {name!r}" in capsys.readouterr().err


def test_a_folder_that_there_is_not_is_refused(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--json", "/no/such/folder/p.json", "--", str(script), "0"]) == 2
    assert "there is no folder /no/such/folder to write p.json into" in capsys.readouterr().err


def test_a_report_of_another_kind_is_refused_before_the_program_runs(
    script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "--html", str(tmp_path / "p.txt"), "--", str(script), "0"]) == 2
    printed = capsys.readouterr()
    assert "--html must name a file that ends in .html, got p.txt" in printed.err
    assert "arguments" not in printed.out


# What the program raises is its own, the error that a wrong command line gives included.
RAISES = """
from hotloop.profiling.launch import CommandError
def train():
    raise {error}("the program's own")
train()
"""


@pytest.mark.parametrize("error", ["ValueError", "CommandError", "KeyError"])
def test_what_the_program_raises_comes_through_with_its_traceback(error: str, tmp_path: Path) -> None:
    path = tmp_path / "raises.py"
    path.write_text(RAISES.format(error=error))
    done = subprocess.run(
        [sys.executable, "-m", "hotloop", "profile", "--", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "hotloop profile: error" not in done.stderr
    assert f'{path}", line 4, in train' in done.stderr
    assert f"{error}: " in done.stderr.splitlines()[-1]
    assert "the program's own" in done.stderr.splitlines()[-1]

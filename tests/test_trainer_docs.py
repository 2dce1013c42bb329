"""The commands and messages of docs/trainer.md."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hotloop.cli import parse_train
from hotloop.trainer.run_dir import RunDirectory

TEXT = (Path(__file__).parent.parent / "docs" / "trainer.md").read_text()
COMMANDS = [
    line for line in TEXT.splitlines() if line.startswith("hotloop train ") and "--resume" not in line
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_means_something(command: str) -> None:
    assert parse_train(shlex.split(command)[2:]) != parse_train([])


def test_flags_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_train(["--help"])
    known = re.sub(r"\s+", "", capsys.readouterr().out)
    mentioned = set(re.findall(r"`(--[a-z.-]+)", TEXT)) - {"--sample", "--video"}
    assert {"--amp", "--deterministic", "--output.wandb", "--evaluation.no-greedy"} <= mentioned
    assert [flag for flag in mentioned if flag not in known] == []


def test_files_are_those_of_a_run_directory() -> None:
    named = set(re.findall(r"^\| .*$", TEXT.split("## What is written")[1].split("##")[0], re.MULTILINE))
    cells = " ".join(row.split("|")[1] for row in named)
    directory = RunDirectory(Path("r"))
    for path in (
        directory.config, directory.metrics, directory.evaluations, directory.checkpoint, directory.best,
        directory.checkpoints, directory.videos, directory.curve, directory.tensorboard,
    ):  # fmt: skip
        assert f"`{path.name}" in cells, path


def test_the_python_block_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.split()[-1] / "metrics.csv").exists()

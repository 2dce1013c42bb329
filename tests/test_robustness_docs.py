"""The block, the command and the names of docs/robustness.md."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import hotloop
from hotloop.cli import parse_train
from hotloop.nonfinite import _FROM

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "robustness.md").read_text()


def test_the_python_block_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=False)
    assert done.stdout == "3 17 nan 1\n", done.stderr


def test_the_command_means_something() -> None:
    (command,) = re.findall(r"^hotloop train .*$", TEXT, re.MULTILINE)
    assert parse_train(shlex.split(command)[2:]).on_nan == "skip"
    assert parse_train([]).on_nan == "raise"


def test_phases_are_those_of_reports() -> None:
    told = TEXT.split("`phase` is")[1].split("\n\n")[0]
    assert set(re.findall(r'`"([a-z]+)"`', told)) == set(_FROM)


def test_targets_and_files_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)`", TEXT):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"`(?:python )?((?:tests|tools)/[a-z_]+\.(?:py|sh))`", TEXT):
        assert (ROOT / path).exists(), path
    assert issubclass(hotloop.NonFiniteError, FloatingPointError)

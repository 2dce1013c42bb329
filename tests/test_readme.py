"""The Python blocks of the README run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs(number: int, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", BLOCKS[number]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_there_are_two_examples_of_the_promised_length() -> None:
    def statements(block: str) -> int:
        return sum(1 for line in block.splitlines() if line.strip() and line.strip()[0] != "#")

    assert len(BLOCKS) == 2
    assert statements(BLOCKS[0]) <= 5
    assert statements(BLOCKS[1][BLOCKS[1].index("env =") :]) <= 15


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target

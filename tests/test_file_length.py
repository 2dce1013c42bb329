"""Files stay readable: none has more than 500 lines without a reason that stands in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIMIT = 500
FOLDERS = (".ci", ".github", "benchmarks", "csrc", "docs", "examples", "python", "tests", "tools")
SUFFIXES = {".cpp", ".cu", ".cuh", ".h", ".md", ".map", ".py", ".pyi", ".sh", ".toml", ".yml", ".c", ".css"}
REASON = re.compile(r"longer than 500 lines because \w+")


def text_files(root: Path) -> list[Path]:
    """What is written by hand: not results of benchmarks, drawn plots, nor what a build leaves."""
    tops = [path for path in root.iterdir() if path.is_file()]
    below = [
        path for folder in FOLDERS for path in (root / folder).rglob("*") if "__pycache__" not in path.parts
    ]
    return sorted(
        path for path in tops + below if path.suffix in SUFFIXES or path.name in ("Makefile", "run")
    )


def too_long(path: Path) -> str | None:
    """What is wrong with a file, or None."""
    text = path.read_text()
    lines = text.count("\n")
    if lines <= LIMIT or REASON.search(text):
        return None
    return f"{path.name} has {lines} lines and no sentence 'longer than {LIMIT} lines because ...'"


def test_no_file_is_too_long_without_a_reason() -> None:
    files = text_files(ROOT)
    assert len(files) > 300
    assert [problem for problem in map(too_long, files) if problem] == []


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("x\n" * LIMIT, False),
        ("x\n" * (LIMIT + 1), True),
        ("# This file is longer than 500 lines because it is a table.\n" + "x\n" * LIMIT, False),
        ("# This file is longer than 500 lines because\n" + "\n" * LIMIT, True),
    ],
)
def test_the_rule(tmp_path: Path, text: str, fails: bool) -> None:
    path = tmp_path / "some.py"
    path.write_text(text)
    assert (too_long(path) is not None) is fails

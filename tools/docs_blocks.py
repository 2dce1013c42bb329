"""Runs the Python blocks of a page one after the other in one process, as a reader would who types them in.

What a block takes for granted, such as an environment that the reader has, is in a comment in front of it
that the page does not show: `<!-- before:`, lines of Python, `-->`.

usage: docs_blocks.py page.md
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)


BEFORE = re.compile(r"<!-- before:\n(.*?)-->\s*\Z", re.DOTALL)


class Block(NamedTuple):
    """A fenced block."""

    language: str  # empty for a bare fence
    line: int  # of its first line of code, from 1
    code: str
    before: str = ""  # what runs ahead of it, unseen


def blocks_of(text: str) -> list[Block]:
    found = []
    for match in FENCE.finditer(text):
        indent = match["indent"]
        code = "".join(line.removeprefix(indent) for line in match["code"].splitlines(keepends=True))
        before = BEFORE.search(text[: match.start()])
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(match["language"], line, code, before[1] if before else ""))
    return found


def run(page: Path) -> None:
    """Executes the page's blocks; tracebacks name the page and its lines."""
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(page.read_text()):
        if block.language == "python":
            exec(block.before, names)
            # so that lines are counted as in the page
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), names)


if __name__ == "__main__":
    run(Path(sys.argv[1]))

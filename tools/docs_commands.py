"""The commands that the pages show: in fenced blocks, and as inline code in prose and tables.

`documented(root)` gives each once, in the order of the pages; `reason_not_to_run` says of those that are no
command of their own, or that cannot be run here, why not.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from docs_blocks import FENCE, Block, blocks_of

TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
LANGUAGES = ("", "bash", "sh", "console", "shell")
_SET = r"(?:[A-Z_]+=(?:\"[^\"]*\"|\S*) +)*"
COMMAND = re.compile(
    rf"{_SET}(?:\.venv/bin/)?(hotloop|make|pip|pytest|python|python3|torchrun|\.ci/run|tools/\S+)(?: |$)"
)
ANSWER = re.compile(r"hotloop \w+: ")  # what it says, `hotloop train: error: ...`
ASSIGNMENT = re.compile(r"(?:export +)?[A-Za-z_]\w*=(?:\"[^\"]*\"|'[^']*'|[^\s\"']*)")
PIP = re.compile(rf"{_SET}pip install\b")

# Run in the checkout, since that is where their files are; everything else runs where a user might be.
CHECKOUT = re.compile(
    rf"{_SET}(?:make\b|\.ci/|tools/|\.venv/|pytest\b|python3? (?:tools/|tests/|setup\.py|-m benchmarks\b)"
    r"|pip install (?:.* )?(?:\.|-r requirements/\S+)(?: |$))"
)
GPU = re.compile(
    r"make (?:test|bench)-gpu\b|benchmarks\.gpu\b|--sync-audit\b|--capture-optimizer-step\b|device cuda"
)
ENDLESS = re.compile(r"make docs-serve\b")
SELF = re.compile(r"make docs-commands\b|run_docs_commands\.py\b")
REWRITES = re.compile(
    r"make format\b|draw_results\.py|cuda_gate\.py --write|compare_instructions\.py measure|tables .*--readme"
)
# Inline code that names a command or one of its options.
NAMES = {
    "hotloop profile": "names a command, which needs a program",
    "hotloop evaluate --video": "names an option",
    "python -m torch.distributed.run": "names a program, which needs another",
    "pip install": "names a command, which needs a package",
}


@dataclasses.dataclass(frozen=True)
class Statement:
    """One line for a shell."""

    page: str
    line: int  # of the page, from 1
    text: str  # without comment, lines that end in a backslash joined
    block: int  # the line of its block, whose statements share an environment; an inline one is its own
    inline: bool = False
    also: tuple[str, ...] = ()  # where else it stands, as `page:line`

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def assignment(self) -> bool:
        return ASSIGNMENT.fullmatch(self.text) is not None

    @property
    def in_checkout(self) -> bool:
        return CHECKOUT.match(self.text) is not None


def pages_of(root: Path) -> list[Path]:
    return [*(root / name for name in TOP if (root / name).exists()), *sorted((root / "docs").rglob("*.md"))]


def _logical_lines(code: str, first: int) -> Iterator[tuple[int, str]]:
    """(number, text) of each line, those that end in a backslash joined with the next."""
    pending, start = "", first
    for number, line in enumerate(code.splitlines(), first):
        start = start if pending else number
        if line.rstrip().endswith("\\"):
            pending += line.rstrip()[:-1].strip() + " "
            continue
        yield start, (pending + line.strip()).strip()
        pending = ""


def _without_comment(line: str) -> str:
    """Up to a `#` that a shell would take for the beginning of a comment."""
    for match in re.finditer(r"(?:^|\s)#", line):
        ahead = line[: match.start()]
        if ahead.count('"') % 2 == 0 and ahead.count("'") % 2 == 0:
            return ahead.strip()
    return line


def is_command(line: str) -> bool:
    return COMMAND.match(line) is not None and not ANSWER.match(line)


def block_lines(block: Block) -> list[tuple[int, str]]:
    """What a reader would type of a block: all of it if one line is a command, else nothing.

    Where lines begin with `$ `, those alone are typed, and the rest is what comes back.
    """
    if block.language not in LANGUAGES:
        return []
    lines = list(_logical_lines(block.code, block.line))
    typed = [(number, line[2:]) for number, line in lines if line.startswith("$ ")] or lines
    typed = [(number, _without_comment(line)) for number, line in typed]
    typed = [(number, line) for number, line in typed if line]
    return typed if any(is_command(line) for _, line in typed) else []


def block_statements(page: str, text: str) -> list[Statement]:
    return [
        Statement(page, number, line, block.line)
        for block in blocks_of(text)
        for number, line in block_lines(block)
    ]


def inline_statements(page: str, text: str) -> list[Statement]:
    """Inline code that is a command. In a table, `make x` and a row's `NAME=value` are one more."""
    prose = FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    found = []
    for paragraph in re.finditer(r"(?:.+\n?)+", prose):
        for match in re.finditer(r"(?<!`)`([^`]+)`(?!`)", paragraph[0]):
            line = " ".join(match[1].split())
            if is_command(line):
                number = prose.count("\n", 0, paragraph.start() + match.start()) + 1
                found.append(Statement(page, number, line, number, inline=True))
    for number, row in enumerate(prose.splitlines(), 1):
        if target := re.match(r"\| `(make [a-z-]+)` \|", row):
            found += [
                Statement(page, number, f"{target[1]} {given}", number, inline=True)
                for given in re.findall(r"`([A-Z_]+=[^`]+)`", row)
            ]
    return sorted(found, key=lambda statement: statement.line)


def _key(text: str, makefile: str) -> str:
    """The same for commands that do the same: what a Makefile takes by itself is dropped."""
    if not text.startswith("make "):
        return text
    words = shlex.split(text)
    defaults = dict(re.findall(r"^([A-Z_]+) \?= (\S+)$", makefile, re.MULTILINE))
    kept = [
        word for word in words if "=" not in word or defaults.get(word.split("=")[0]) != word.split("=")[1]
    ]
    return shlex.join(kept)


def documented(root: Path, pages: Iterable[Path] | None = None) -> list[Statement]:
    """Every statement of the blocks, and every inline command that stands in no block and not further up."""
    paths = list(pages_of(root) if pages is None else pages)
    makefile = (root / "Makefile").read_text() if (root / "Makefile").exists() else ""
    texts = {str(path.relative_to(root)): path.read_text() for path in paths}
    found = [statement for page, text in texts.items() for statement in block_statements(page, text)]
    at: dict[str, int] = {}
    for index, statement in enumerate(found):
        if not statement.assignment:
            at.setdefault(_key(statement.text, makefile), index)
    for page, text in texts.items():
        for statement in inline_statements(page, text):
            index = at.setdefault(_key(statement.text, makefile), len(found))
            if index == len(found):
                found.append(statement)
            elif statement.where not in (found[index].where, *found[index].also):
                also = (*found[index].also, statement.where)
                found[index] = dataclasses.replace(found[index], also=also)
    order = list(texts)
    return sorted(found, key=lambda statement: (order.index(statement.page), statement.line))


def reason_not_to_run(statement: Statement, *, gpu: bool, in_place: bool) -> str | None:
    """Why a statement is listed and not run; None if it is run."""
    text = statement.text
    if statement.inline:
        if text in NAMES:
            return NAMES[text]
        words = text.split()
        if any("..." in word or re.fullmatch(r"<.*>|[A-Z]+", word.strip("\"'")) for word in words):
            return "a pattern, not a command"
        if len(words) == 1 and text != ".ci/run":
            return "names a program"
    if ENDLESS.search(text):
        return "serves until it is stopped"
    if SELF.search(text):
        return "is this run"
    if GPU.search(text) and not gpu:
        return "needs an NVIDIA GPU"
    if REWRITES.search(text) and in_place:
        return "rewrites committed files, so it needs --clone"
    return None

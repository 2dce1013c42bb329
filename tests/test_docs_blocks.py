"""What the pages show runs: Python blocks as they stand, commands as far as their names and options exist.

`make docs-commands` runs the commands themselves.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from hotloop.integrations import HOSTS, find_host

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from docs_blocks import Block, blocks_of  # noqa: E402
from docs_commands import documented, is_command, pages_of, reason_not_to_run  # noqa: E402

PAGES = pages_of(ROOT)
PYTHON_PAGES = [page for page in PAGES if any(b.language == "python" for b in blocks_of(page.read_text()))]
# But patterns, such as `hotloop train --env-backend NAME`, and names of programs.
DOCUMENTED = [s for s in documented(ROOT) if reason_not_to_run(s, gpu=True, in_place=False) is None]
COMMANDS = [
    (statement.where, line)
    for statement in DOCUMENTED
    for line in map(str.strip, statement.text.split("&&"))
    if is_command(line)
]


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def missing_modules(blocks: list[Block]) -> list[str]:
    """Packages that the blocks import and that are not installed here."""
    imported = set()
    for block in blocks:
        for node in ast.walk(ast.parse(block.before + block.code)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
                imported.add(node.module.split(".")[0])
    return sorted(name for name in imported if importlib.util.find_spec(name) is None)


def missing_host(name: str) -> list[str]:
    """The trainer that a page of integrations is about, where no tested version of it is installed here."""
    if all(host.name != name for host in HOSTS) or find_host(name).module is None:
        return []
    host = find_host(name)
    tested = host.distribution is None or host.version in host.tested
    return [] if host.installed and tested else [f"a tested {host.distribution or host.module}"]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=page_id)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    """Pages about another trainer run where it is installed: in .venv-hosts/<page>, or here."""
    blocks = [block for block in blocks_of(page.read_text()) if block.language == "python"]
    python = sys.executable
    if page.parent.name == "integrations":
        host = ROOT / ".venv-hosts" / page.stem / "bin/python"
        python = str(host) if host.exists() else python
    missing = missing_modules(blocks) + missing_host(page.stem if page.parent.name == "integrations" else "")
    if python == sys.executable and missing:
        pytest.skip(f"needs {', '.join(missing)}: make test-peers")
    # a process of its own, whose PYTHONPATH leads here: it may be another environment's Python
    paths = [str(ROOT / "tools"), str(ROOT / "python"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [python, "-m", "docs_blocks", str(page)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@cache
def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hotloop", *command, "--help"],
        capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "400"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return re.sub(r"\s+", " ", done.stdout)


def check_hotloop(words: list[str]) -> str | None:
    """What is wrong with the arguments of `hotloop`, or None: its help must name command and long options."""
    if not words or words[0] in ("--help", "--version"):
        return None
    names = re.findall(r"[a-z]+", help_of())
    if words[0] not in names:
        return f"hotloop has no command {words[0]}"
    if words[0] in ("doctor", "integrations") and len(words) == 1:
        return None
    suite = ["--suite", "loops"] if "--suite loops" in " ".join(words) else []  # options of its own
    told = help_of(words[0], *suite)
    options = [
        word.split("=")[0]
        for word in words[1 : words.index("--") if "--" in words else None]
        if word.startswith("--")
    ]
    unknown = [
        option
        for option in options
        if option != "--help" and option.replace(".no-", ".") not in told and option not in told
    ]
    return f"hotloop {words[0]} has no {unknown}" if unknown else None


def check_pip(words: list[str]) -> str | None:
    section = (
        (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    )
    extras = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    for word in words:
        named = re.fullmatch(r"hotloop\[([\w,]+)\]", word)
        if named and (unknown := set(named[1].split(",")) - extras):
            return f"hotloop has no extra {sorted(unknown)}"
    return None


def check_command(line: str) -> str | None:
    words = [
        word for word in shlex.split(line) if not re.fullmatch(r"[A-Z_]+=.*", word) or word.startswith("-")
    ]
    name, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if name == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        unknown = [word for word in rest if re.fullmatch(r"[a-z-]+", word) and word not in targets]
        return f"the Makefile has no {unknown}" if unknown else None
    if name == "pip":
        return check_pip(rest)
    if name.startswith("python"):
        if rest[:1] == ["-m"]:
            local = (ROOT / rest[1].split(".")[0]).is_dir()
            where = ROOT / rest[1].replace(".", "/")
            return (
                None
                if not local or where.is_dir() or where.with_suffix(".py").exists()
                else f"no module {rest[1]}"
            )
        return None if rest[0].startswith("-") or (ROOT / rest[0]).exists() else f"no file {rest[0]}"
    if name == "torchrun":
        assert rest.index("-m") == rest.index("hotloop") - 1, rest
        return check_hotloop(rest[rest.index("hotloop") + 1 :])
    if name == "pytest":
        paths = [word for word in rest if "/" in word]
        return next((f"no file {path}" for path in paths if not (ROOT / path).exists()), None)
    if name == "hotloop":
        return check_hotloop([word for word in rest if not word.startswith("$")])
    return None if (ROOT / name).exists() else f"no file {name}"


@pytest.mark.parametrize(("where", "line"), COMMANDS, ids=lambda value: str(value)[:60])
def test_commands_exist(where: str, line: str) -> None:
    assert check_command(line) is None, where


@pytest.mark.parametrize(
    "line",
    [
        "hotloop tarin --seed 1", "hotloop train --sead 1", "make tests-everything",
        "pip install 'hotloop[trian]'", "python tools/no_such.py", "python -m benchmarks.nothing",
        "torchrun --nproc-per-node 2 -m hotloop train --no-such 1", "pytest benchmarks/bench_nothing.py -s",
    ],
)  # fmt: skip
def test_a_wrong_command_is_seen(line: str) -> None:
    assert check_command(line) is not None


def test_the_blocks_are_found() -> None:
    text = "a\n```python\nx = 1\n```\n\n- b\n\n    ```python\n    if x:\n        y = 2\n    ```\n\n"
    text += "```\nmake test\n```\n"
    assert blocks_of(text) == [
        Block("python", 3, "x = 1\n"), Block("python", 9, "if x:\n    y = 2\n"), Block("", 14, "make test\n"),
    ]  # fmt: skip
    assert len(PYTHON_PAGES) >= 7
    assert len(COMMANDS) >= 90

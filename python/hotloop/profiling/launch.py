"""Runs the command line of a Python program in this process."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

_PYTHON = re.compile(r"python(\d+(\.\d+)?)?(\.exe)?")


class CommandError(ValueError):
    """The command line is not that of a Python program."""


def resolve(command: Sequence[str]) -> tuple[Callable[[], object], list[str]]:
    """What runs a command, and the `sys.argv` that it expects.

    Args:
        command: `python script.py ...`, `python -m module ...`, both without `python`, or a console
        script such as
            `hotloop train`.

    Raises:
        CommandError: there is nothing to run, or it is no Python program.
    """
    words = list(command)
    if words and _PYTHON.fullmatch(Path(words[0]).name):
        del words[0]
    if not words:
        raise CommandError("hotloop profile: a command is missing behind --")
    first, rest = words[0], words[1:]
    if first == "-m":
        if not rest:
            raise CommandError("hotloop profile: -m needs the name of a module")
        module = rest[0]
        return lambda: runpy.run_module(module, run_name="__main__", alter_sys=True), rest
    if first.startswith("-"):
        raise CommandError(f"hotloop profile: of Python's options only -m is understood, got {first}")
    script = Path(first) if Path(first).is_file() else _console_script(first)
    return lambda: runpy.run_path(str(script), run_name="__main__"), [str(script), *rest]


def run(work: Callable[[], object], argv: list[str]) -> int:
    """Runs what `resolve` found as `__main__` and returns its exit code. Raises what the program raises."""
    before, path = sys.argv, list(sys.path)
    sys.argv = argv
    sys.path.insert(0, str(Path(argv[0]).resolve().parent) if Path(argv[0]).is_file() else "")
    try:
        work()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    finally:
        sys.argv, sys.path[:] = before, path
    return 0


def _console_script(name: str) -> Path:
    """The script that a name on PATH stands for; first of all, beside this Python."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise CommandError(f"hotloop profile: there is no file and no command {name!r}")
    with open(found, "rb") as file:
        shebang = file.readline(200)
    if not (shebang.startswith(b"#!") and b"python" in shebang):
        raise CommandError(f"hotloop profile: {found} is no Python program")
    return Path(found)

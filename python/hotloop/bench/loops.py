"""Finds and runs the suite `loops`: whole training loops beside each other, from `benchmarks/loops`.

It stays out of the package: it holds doubles of other systems' loops, and is of use in a checkout only.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

NAME = "loops"
PROG = f"hotloop bench --suite {NAME}"


def asked(argv: Sequence[str]) -> bool:
    """Whether a command line of `hotloop bench` names this suite, alone or among others."""
    return any(NAME in suites for suites in _suites(argv))


def main(argv: Sequence[str]) -> int:
    """Runs the suite with the other arguments of a command line that asks for it.

    Returns:
        The exit code: 2 where it is not there or is asked for together with another suite, else the suite's.
    """
    others = sorted({name for suites in _suites(argv) for name in suites} - {NAME})
    if others:
        return _refuse(f"--suite {NAME} runs by itself, got {', '.join(others)} beside it")
    try:
        command = load("command")
    except FileNotFoundError as error:
        return _refuse(str(error))
    code: int = command.main(_without_suite(argv), PROG)
    return code


def folder() -> Path:
    """Where the suite must be: beside the checkout's `python/`."""
    return Path(__file__).parents[3] / "benchmarks"


def load(module: str) -> ModuleType:
    """A module of the suite. FileNotFoundError outside a checkout."""
    place = folder()
    if not (place / NAME / "command.py").is_file():
        raise FileNotFoundError(
            f"the suite {NAME} is part of hotloop's checkout, not of the installed package: there is no "
            f"{place / NAME}. Clone the repository and run `make bench-loops` there"
        )
    if str(place) not in sys.path:
        sys.path.append(str(place))
    return importlib.import_module(f"{NAME}.{module}")


def _suites(argv: Sequence[str]) -> list[list[str]]:
    """What each `--suite` names."""
    texts = [after for option, after in itertools.pairwise(argv) if option == "--suite"]
    texts += [option.partition("=")[2] for option in argv if option.startswith("--suite=")]
    return [[part.strip() for part in text.split(",")] for text in texts]


def _without_suite(argv: Sequence[str]) -> list[str]:
    left: list[str] = []
    skip = False
    for argument in argv:
        if skip:
            skip = False
        elif argument == "--suite":
            skip = True
        elif not argument.startswith("--suite="):
            left.append(argument)
    return left


def _refuse(message: str) -> int:
    print(f"hotloop bench: error: {message}", file=sys.stderr)
    return 2

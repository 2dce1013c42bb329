"""``hotloop profile -- COMMAND``: where the time of a trainer goes."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hotloop.profiling.launch import CommandError, resolve, run
from hotloop.profiling.profile import profile


def main(argv: Sequence[str]) -> int:
    """Runs ``hotloop profile``.

    Returns:
        The exit code of the command that was run; 2 where it could not be.

    Raises:
        Exception: whatever the program raises, so that its traceback is seen.
    """
    split = list(argv).index("--") if "--" in argv else len(argv)
    options = _parser().parse_args(argv[:split])
    command = [*options.command, *argv[split + 1 :]]
    for path in (options.html, options.json, options.trace):
        if path is not None and not path.absolute().parent.is_dir():
            return _refuse(f"there is no folder {path.absolute().parent} to write {path.name} into")
    for ending, path in ((".html", options.html), (".json", options.json)):
        if path is not None and path.suffix != ending:
            return _refuse(f"--{ending[1:]} must name a file that ends in {ending}, got {path.name}")
    # Nothing of the program's own runs in here: what it raises is not a mistake in these arguments.
    try:
        environments = [_function(name) for name in options.environment]
        work, arguments = resolve(command)
        taking = profile(environments=environments, trace=options.trace, nvtx=options.nvtx)
    except ValueError as error:
        return _refuse(str(error).removeprefix("hotloop profile: "))
    with taking as taken:
        try:
            code = run(work, arguments)
        except KeyboardInterrupt:
            code = 130
    print("\n" + taken.text())
    for path in (options.html, options.json):
        if path is not None:
            taken.save(path)
            print(f"written: {path}")
    if options.trace is not None:
        print(f"written: {options.trace}")
    return code


def _function(name: str) -> tuple[Any, str]:
    """`module:Class.method` to the class and the method's name."""
    module, _, path = name.partition(":")
    *owners, last = path.split(".")
    try:
        owner: Any = importlib.import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        getattr(owner, last)
    except (ImportError, AttributeError, ValueError) as error:
        raise CommandError(f"--environment must be module:Class.method, got {name!r}: {error}") from None
    return owner, last


def _refuse(message: str) -> int:
    print(f"hotloop profile: error: {message}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="hotloop profile",
        usage="hotloop profile [options] -- COMMAND ...",
        description="Run the command line of a trainer in Python and tell where its time goes.",
        epilog="for example: hotloop profile --html profile.html -- python ppo.py --total-timesteps 100000",
    )
    made.add_argument("command", nargs="*", help=argparse.SUPPRESS)
    made.add_argument("--html", type=Path, help="write the report with plots to this file")
    made.add_argument("--json", type=Path, help="write it as JSON to this file")
    made.add_argument(
        "--trace", type=Path, help="write a trace of torch.profiler to this file (slow: short runs)"
    )
    made.add_argument("--nvtx", action="store_true", help="mark the phases for Nsight (needs CUDA)")
    made.add_argument(
        "--environment", action="append", default=[], metavar="MODULE:CLASS.METHOD",
        help="a function that steps an environment, where it is not recognised",
    )  # fmt: skip
    return made

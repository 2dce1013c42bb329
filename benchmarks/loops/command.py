"""The command line of the suite."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hotloop.bench.machine import describe, usable_cores
from hotloop.bench.runner import WorkerError
from hotloop.bench.table import machine_lines

from .contestants import CONTESTANTS
from .jobs import HYPER, JOBS
from .learning import learn
from .process import MEMORIES
from .race import Plan, run
from .report import learning_lines, race_lines

FORMAT = 1
_PACKAGES = ("gymnasium", "envpool", "stable-baselines3", "pufferlib-core")


def main(argv: Sequence[str], prog: str = "python -m benchmarks.loops") -> int:
    """Runs the suite; returns the exit code: 0; 1 when a contestant's process failed; 130 after Ctrl-C.
    Mistakes in the arguments end the program with 2."""
    made = parser(prog)
    options = made.parse_args(argv)
    plan = Plan(
        jobs=options.jobs,
        contestants=options.contestants,
        threads=options.threads,
        memory=options.memory,
        rounds=1 if options.quick else options.rounds,
        quick=options.quick,
        seed=options.seed,
    )
    if options.json is not None and not options.json.absolute().parent.is_dir():
        made.error(f"there is no folder {options.json.absolute().parent} to write {options.json.name} into")
    settings = {**asdict(plan), **asdict(HYPER)}
    report: dict[str, Any] = {
        "format": FORMAT, "machine": describe(), "versions": versions(), "settings": settings,
    }  # fmt: skip
    print("\n".join(machine_lines(report["machine"])), flush=True)
    try:
        if options.learning:
            report["learning"] = learn(
                plan.jobs,
                plan.contestants,
                options.seeds,
                quick=plan.quick,
                listen=lambda found: _show(learning_lines(found)),
            )
        else:
            report["races"] = run(plan, lambda race: _show(race_lines(race)))
    except WorkerError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"\nfigures written to {options.json}")
    return 0


def versions() -> dict[str, str | None]:
    """Versions of the packages that take part; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        found[package] = None
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _show(lines: Sequence[str]) -> None:
    print("\n" + "\n".join(lines), flush=True)


def parser(prog: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog, description="Whole training loops in turn, in agent steps per second."
    )
    made.add_argument("--jobs", type=_names(JOBS), default=tuple(JOBS), help=f"of {', '.join(JOBS)}")
    made.add_argument(
        "--contestants",
        type=_names(CONTESTANTS),
        default=tuple(CONTESTANTS),
        help=f"of {', '.join(CONTESTANTS)}",
    )
    made.add_argument("--threads", type=_threads, default=(1,), help="numbers of torch threads, such as 1,2")
    made.add_argument(
        "--memory",
        type=_names(MEMORIES),
        default=MEMORIES,
        help="default, or kept: not handed back once freed",
    )
    made.add_argument("--rounds", type=_positive, default=7, help="epochs that are timed of each")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--learning", action="store_true", help="time nothing, see what is learnt (E1 and E2)")
    made.add_argument("--seeds", type=_positive, default=3, help="seeds of --learning, from 0 on")
    made.add_argument("--quick", action="store_true", help="tiny jobs, one round: do all contestants run?")
    made.add_argument("--json", type=Path, help="write the figures to this file")
    return made


def _names(known: Iterable[str]) -> Any:
    names = tuple(known)

    def parse(text: str) -> tuple[str, ...]:
        given = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
        for name in given:
            if name not in names:
                raise argparse.ArgumentTypeError(f"must be of {', '.join(names)}, got {name!r}")
        return given

    return parse


def _threads(text: str) -> tuple[int, ...]:
    numbers = tuple(map(_positive, text.split(",")))
    for number in numbers:
        if number > usable_cores():
            raise argparse.ArgumentTypeError(
                f"must be at most {usable_cores()} (the usable cores), got {number}"
            )
    return numbers


def _positive(text: str) -> int:
    if not (text.strip().isascii() and text.strip().isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return int(text)

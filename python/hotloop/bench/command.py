"""The command line `hotloop bench`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotloop.bench import explain, loops, runner
from hotloop.bench.html import render
from hotloop.bench.machine import usable_cores
from hotloop.bench.suite import Options
from hotloop.bench.suites import SUITES
from hotloop.bench.table import Printer

_DESCRIPTION = """Measure the ops beside the time to copy their bytes, and beside other systems (--peers).

Contestants are timed in turn in one process, the results compared afterwards. Each number of threads has a
process of its own, with the threads bound to cores. Times are medians; "x floor" is how many times longer
than the copy, "x ours" how many times longer than hotloop."""


@dataclass
class BenchCommand:
    """What `hotloop bench` takes. Lists are separated by commas."""

    suite: str = ",".join(SUITES)
    """Suites to run; `loops`, which has options of its own, by itself (--suite loops --help)."""
    shapes: str | None = None
    """Rows x steps, such as 4096x128,64x64; each suite's own when not given."""
    threads: str | None = None
    """Numbers of threads (default: 1, and 2 where there are two cores)."""
    ops: str | None = None
    """Only these ops, such as gae,minibatch."""
    peers: bool = False
    """Run the other systems that are installed, too."""
    seconds: float = 0.5
    """Time for each case."""
    malloc: str = "default"
    """The allocator: default, keep (freed memory is not handed back to the kernel), or both."""
    repeat_inputs: bool = False
    """Use one set of inputs again and again, so that it stays in the cache."""
    json: Path | None = None
    """Write the figures to this file."""
    html: Path | None = None
    """Write a report with plots to this file."""
    explain: str | None = None
    """Say for a shape which path the kernels take, how many bytes must move and how long that takes."""
    plain: bool = False
    """Print plain text even where rich is installed."""


def bench(argv: Sequence[str]) -> int:
    """Runs `hotloop bench`.

    Args:
        argv: arguments behind `bench`.

    Returns:
        The exit code: 0; 1 when a result was wrong, a measuring process failed or nobody reads the output; 2
        for a mistake in the arguments; 130 after Ctrl-C.
    """
    if loops.asked(argv):  # it has options of its own
        return loops.main(argv)
    import tyro

    command = tyro.cli(BenchCommand, prog="hotloop bench", description=_DESCRIPTION, args=list(argv))
    try:
        shape = None if command.explain is None else parse_shapes(command.explain, "explain")
        if shape is not None and len(shape) != 1:
            raise ValueError(f"--explain takes one shape, got {command.explain!r}")
        plan = make_plan(command)
        for path in (command.json, command.html):
            if path is not None and not path.absolute().parent.is_dir():
                raise ValueError(f"there is no folder {path.absolute().parent} to write {path.name} into")
    except ValueError as error:
        return _fail(error, 2)
    try:
        return _measure(command, plan) if shape is None else _explain(shape[0], plan)
    except runner.WorkerError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the tables (`| head`) has seen enough; Python would complain again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def make_plan(command: BenchCommand) -> runner.Plan:
    """The plan that a command line describes. ValueError names the option that is wrong."""
    suites = _names(command.suite, "suite", SUITES)
    threads = _threads(command.threads)
    malloc = runner.MALLOCS if command.malloc == "both" else _names(command.malloc, "malloc", runner.MALLOCS)
    shapes = None if command.shapes is None else parse_shapes(command.shapes, "shapes")
    if not 0.0 < command.seconds <= 600.0:
        raise ValueError(f"--seconds must be above 0 and at most 600, got {command.seconds}")
    known = known_ops()
    only = None if command.ops is None else _names(command.ops, "ops", known)
    options = Options(shapes=shapes, peers=command.peers, rotate=not command.repeat_inputs, only=only)
    return runner.Plan(suites, threads, malloc, command.seconds, options)


def known_ops() -> tuple[str, ...]:
    """What `--ops` may name."""
    from hotloop.bench.estimators import WANTED

    return (*WANTED, "draw", "minibatch", "store", "step", "call")


def parse_shapes(text: str, option: str) -> tuple[tuple[int, int], ...]:
    """`4096x128,64x64` as pairs. ValueError names the option and the part that is wrong."""
    shapes = []
    for part in text.split(","):
        numbers = part.strip().lower().split("x")
        if len(numbers) != 2 or not all(n.isascii() and n.isdigit() and int(n) > 0 for n in numbers):
            raise ValueError(
                f"--{option} must be rows x steps, both positive, such as 4096x128, got {part.strip()!r}"
            )
        shapes.append((int(numbers[0]), int(numbers[1])))
    return tuple(shapes)


def _threads(text: str | None) -> tuple[int, ...]:
    cores = usable_cores()
    if text is None:
        return (1, 2) if cores >= 2 else (1,)
    numbers = []
    for part in text.split(","):
        number = part.strip()
        if not (number.isascii() and number.isdigit() and 1 <= int(number) <= cores):
            raise ValueError(f"--threads must be between 1 and {cores} (the usable cores), got {number!r}")
        numbers.append(int(number))
    return tuple(numbers)


def _names(text: str, option: str, known: Sequence[str] | Mapping[str, Any]) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in known:
            raise ValueError(f"--{option} must be of {', '.join(known)}, got {name!r}")
    return tuple(dict.fromkeys(names))


def _measure(command: BenchCommand, plan: runner.Plan) -> int:
    printer = Printer(command.plain)
    told: set[tuple[str, ...]] = set()

    def listen(event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "machine" and ("machine",) not in told:
            told.add(("machine",))
            printer.machine(event["machine"])
        elif kind == "absent" and ("absent", event["op"]) not in told:
            told.add(("absent", event["op"]))
            printer.absent(event["op"], event["why"])
        elif kind == "case":
            printer.case(event["record"], event["threads"], event["malloc"])
        elif kind == "wrong":
            printer.wrong(event["message"])

    report = runner.run(plan, listen)
    if command.json is not None:
        command.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"\nfigures written to {command.json}")
    if command.html is not None:
        command.html.write_text(render(report), encoding="utf-8")
        print(f"\nreport written to {command.html}")
    measured = sum(len(run["cases"]) for run in report["runs"])
    wrong = sum(len(run["wrong"]) for run in report["runs"])
    if measured + wrong == 0:
        return _fail("nothing was measured: no suite has what --ops names", 2)
    return 1 if wrong else 0


def _explain(shape: tuple[int, int], plan: runner.Plan) -> int:
    first = True
    for threads in plan.threads:
        job = {"explain": shape, "threads": threads, "seconds": plan.seconds}
        for event in runner.events(job, runner.environment(threads)):
            if event["event"] == "machine" and first:
                Printer(True).machine(event["machine"])
                first = False
            elif event["event"] == "explain":
                for fact in event["facts"]:
                    print("\n" + "\n".join(explain.lines(fact)))
    return 0


def _fail(error: BaseException | str, code: int) -> int:
    print(f"hotloop bench: error: {error}", file=sys.stderr, flush=True)
    return code

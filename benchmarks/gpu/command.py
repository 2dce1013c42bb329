"""The command line of the suite."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hotloop.bench.case import DisagreementError
from hotloop.bench.table import microseconds, ratio

from .case import run_case
from .loop_cases import LOOP_JOBS, can_capture, run_loop
from .ops_cases import absent, cases
from .runtime import CudaRuntime, Runtime, facts, obstacle

FORMAT = 1
SUITES = ("ops", "loops")


def main(
    argv: Sequence[str],
    prog: str = "python -m benchmarks.gpu",
    *,
    why_not: Callable[[], str | None] = obstacle,
    make_runtime: Callable[[], Runtime] = CudaRuntime,
) -> int:
    """Runs the suite; returns the exit code: 0; 1 where a result is wrong or something failed; 2 where there
    is no GPU, or for a mistake in the arguments (which ends the program); 130 after Ctrl-C."""
    made = _parser(prog)
    options = made.parse_args(argv)
    if options.json is not None and not options.json.absolute().parent.is_dir():
        made.error(f"there is no folder {options.json.absolute().parent} to write {options.json.name} into")
    reason = why_not()
    if reason is not None:
        print(f"{prog}: error: {reason}", file=sys.stderr)
        return 2
    runtime = make_runtime()
    report: dict[str, Any] = {
        "format": FORMAT,
        "machine": facts(),
        "settings": {"rounds": options.rounds, "quick": options.quick, "suites": options.suites},
        "absent": absent(runtime.device),
        "ops": [],
        "loops": [],
        "errors": [],
    }
    try:
        _run(options, runtime, report)
    except KeyboardInterrupt:
        return 130
    finally:
        if options.json is not None:  # whatever was measured is kept
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    for error in report["errors"]:
        print(f"{prog}: error: {error}", file=sys.stderr)
    if options.json is not None:
        print(f"\nfigures written to {options.json}")
    return 1 if report["errors"] else 0


def _run(options: argparse.Namespace, runtime: Runtime, report: dict[str, Any]) -> None:
    if "ops" in options.suites:
        for case in cases(runtime, options.quick):
            # The others are worth having: time on such a machine is.
            try:
                record = run_case(case, runtime, options.rounds)
            except (DisagreementError, RuntimeError) as error:
                report["errors"].append(f"{case.title}: {error}")
                continue
            report["ops"].append(record)
            print("\n".join(_op_lines(record)), flush=True)
        for op, why in report["absent"].items():
            print(f"{op}: {why}")
    if "loops" in options.suites:
        for name in LOOP_JOBS:
            for captured in (False, True) if can_capture(runtime.device) else (False,):
                try:
                    record = run_loop(
                        name, runtime, captured=captured, rounds=options.rounds, quick=options.quick
                    )
                except RuntimeError as error:
                    report["errors"].append(f"{name}, captured={captured}: {error}")
                    continue
                report["loops"].append(record)
                print(_loop_line(record), flush=True)


def _op_lines(record: dict[str, Any]) -> list[str]:
    return [record["title"]] + [
        f"  {each['name']:<24} {microseconds(each['median']):>10}  x floor {ratio(each['to_floor']):>6}  "
        f"{each['gigabytes_a_second']:8.1f} GB/s  spread {100 * each['spread']:.0f} %"
        for each in record["contestants"]
    ]


def _loop_line(record: dict[str, Any]) -> str:
    return (
        f"{record['job']} {record['title']}: {record['steps_per_second']:,.0f} agent steps a second, rollout "
        f"{microseconds(record['rollout'])}, training {microseconds(record['training'])}"
    )


def _parser(prog: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog, description="Ops and whole training loops on an NVIDIA GPU.")
    made.add_argument("--suites", nargs="+", choices=SUITES, default=list(SUITES))
    made.add_argument("--rounds", type=_positive, default=15, help="samples of each op, epochs of each loop")
    made.add_argument("--quick", action="store_true", help="tiny shapes: does everything run?")
    made.add_argument("--json", type=Path, help="write the figures to this file")
    return made


def _positive(text: str) -> int:
    if not (text.strip().isascii() and text.strip().isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return int(text)

"""The command line of the suite."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hotloop.bench.machine import describe
from hotloop.bench.runner import WorkerError
from hotloop.bench.table import machine_lines

from .race import ROOT, Race, run
from .subject import JOBS

FORMAT = 1


def main(argv: Sequence[str]) -> int:
    """Runs the suite; returns the exit code: 0; 1 when a process failed; 130 after Ctrl-C."""
    options = _parser().parse_args(argv)
    report: dict[str, Any] = {"format": FORMAT, "machine": describe(), "races": []}
    print("\n".join(machine_lines(report["machine"])), flush=True)
    try:
        for host in options.hosts.split(","):
            python = _environment(host)
            for memory in options.memory.split(","):
                for job in [job for job in JOBS[host] if options.jobs in job]:
                    race = Race(
                        host, job, python, options.threads, memory, 1 if options.quick else options.rounds,
                        options.quick, options.seed,
                    )  # fmt: skip
                    report["races"].append(run(race))
                    print("\n" + "\n".join(lines(report["races"][-1])), flush=True)
    except WorkerError as error:
        print(f"benchmarks.integrations: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"\nfigures written to {options.json}")
    return 0


def lines(race: Mapping[str, Any]) -> list[str]:
    """A race, as text."""
    found = race["summary"]
    part = "" if found["part"] is None else f", {found['part']:.1f}x in it"
    told = [
        f"{race['host']}, {race['job']}, {race['threads']} thread(s), memory {race['memory']}: an iteration "
        f"of {race['steps']} steps takes {found['seconds'][0] * 1e3:.1f} ms, with hotloop "
        f"{found['seconds'][1] * 1e3:.1f} ms: {found['whole']:.2f}x; {found['share']:.0%} is replaced{part}"
    ]
    if "floor" in found:
        told[0] += f"; copying its bytes takes {found['floor'] * 1e3:.2f} ms: {found['at_most']:.1f}x at most"
    for name, (plain, ours, ratio) in found["parts"].items():
        least, at_most = found.get("floors", {}).get(name, (0.0, None))
        told.append(
            f"  {name:<28} {plain * 1e3:9.2f} ms  {ours * 1e3:9.2f} ms"
            + (f"  {ratio:6.1f}x" if ratio else "")
            + (f"  of at most {at_most:6.1f}x ({least * 1e3:.2f} ms)" if at_most else "")
        )
    return told


def _environment(host: str) -> Path:
    """The Python of a host; this one where nothing needs to be installed for it."""
    if not (ROOT / "requirements" / "hosts" / f"{host}.txt").is_file():
        return Path(sys.executable)
    command = [sys.executable, str(ROOT / "tools" / "host_environment.py"), host]
    return Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m benchmarks.integrations", description=__doc__)
    made.add_argument("--hosts", default=",".join(JOBS), help=f"of {', '.join(JOBS)}")
    made.add_argument("--jobs", default="", help="those alone that have this in their name")
    made.add_argument("--threads", type=int, default=1, help="of torch")
    made.add_argument(
        "--memory", default="default,keep", help="default, keep: freed memory is not handed back"
    )
    made.add_argument("--rounds", type=int, default=7, help="iterations that are timed of each side")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--quick", action="store_true", help="tiny jobs, one round: does everything run?")
    made.add_argument("--json", type=Path, help="write the figures to this file")
    return made

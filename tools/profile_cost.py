"""Counts what `hotloop.profile()` costs, in instructions: while it is on, and once it is off again.

Times on a shared machine differ by more than that. Callgrind counts the default training and a script in
CleanRL's manner without a profile, with one and without again (benchmarks/instructions/profiled.py). Needs
valgrind (with its headers) and a C compiler; takes some minutes.

usage: python tools/profile_cost.py [--steps N] [default] [script]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks/instructions"
JOBS = ("default", "script")
_LABEL = re.compile(r"^desc: Trigger: Client Request: (.+)\|(once|twice)$", re.MULTILINE)
_TOTAL = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)
# How much longer Callgrind takes for Python and torch than the processor, about.
SLOWDOWN = 50.0


def run(*command: str | Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def count(job: str, steps: int) -> dict[str, dict[str, int]]:
    """Instructions of trainings over `steps` (``once``) and over twice as many, by what was on."""
    environment = {
        **os.environ,
        "HOTLOOP_ISA": "avx2",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(ROOT / "python"),
    }
    with tempfile.TemporaryDirectory(prefix="hotloop-profile-cost-") as name:
        work = Path(name)
        library = work / "marks.so"
        run("cc", "-O1", "-shared", "-fPIC", "-o", library, FOLDER / "marks.c", environment=environment)
        program = (sys.executable, FOLDER / "profiled.py", job, library, str(steps))
        seconds = float(run(*program, "1", environment=environment))
        print(f"{job}: {steps} steps, {seconds:.2f} s without Callgrind", flush=True)
        run(
            "valgrind", "--tool=callgrind", "--instr-atstart=no", "--dump-line=no",
            f"--callgrind-out-file={work}/out", *program, str(SLOWDOWN), environment=environment,
        )  # fmt: skip
        totals: dict[str, dict[str, int]] = {}
        for path in work.glob("out.*"):
            dump = path.read_text(errors="replace")
            label, total = _LABEL.search(dump), _TOTAL.search(dump)
            if label is not None and total is not None:
                totals.setdefault(label[1], {})[label[2]] = int(total[1])
    return totals


def main() -> None:
    parser = argparse.ArgumentParser(description="What hotloop.profile() costs, in instructions.")
    parser.add_argument("--steps", type=int, default=4096)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"of {', '.join(JOBS)} (default: all)")
    options = parser.parse_args()
    # not by `choices`, which argparse of some versions of Python compares with the whole empty list
    if unknown := [job for job in options.jobs if job not in JOBS]:
        parser.error(f"jobs: expected {' or '.join(JOBS)}, got {unknown[0]}")
    for job in options.jobs or JOBS:
        found = count(job, options.steps)
        off, on = (found[name]["twice"] - found[name]["once"] for name in ("off", "on"))
        again = found["afterwards"]["once"] / found["off"]["once"] - 1
        print(f"{job}: {off / options.steps:,.0f} instructions a step, under a profile {on / off - 1:+.2%}")
        print(f"{job}: a training before and one after the profile differ by {again:+.3%}", flush=True)


if __name__ == "__main__":
    main()

"""Counts the instructions of a fixed set of calls under Callgrind, and compares them with those on record.

Counts repeat where times do not: they show a regression of a few per cent that no clock on a shared machine
can. They say nothing about caches and memory. The set is benchmarks/instructions/programs.py; the record,
benchmarks/instructions/counts.json, is kept in the repository. Callgrind knows no AVX-512, so the AVX2
kernels are counted. Needs valgrind (with its headers) and a C compiler.

usage: python tools/compare_instructions.py measure [--out FILE]
       python tools/compare_instructions.py compare [--threshold PER_CENT] [--baseline FILE] [--counts FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks/instructions"
RECORD = FOLDER / "counts.json"
THRESHOLD = 3.0  # per cent
_LABEL = re.compile(r"^desc: Trigger: Client Request: (.+)\|(once|twice)$", re.MULTILINE)
_TOTAL = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)
# What is known of a tensor lies in a slot that its address names. Where two tensors of a call share one, the
# call takes some 600 instructions more; with other tensors alive they do not.
HELD = (0, 37)
# What else a count depends on: a change of these is no regression.
CIRCUMSTANCES = ("python", "torch", "tensordict", "compiler", "valgrind")


class MeasureError(Exception):
    """Why nothing could be counted."""


def measure() -> dict[str, Any]:
    """Instructions a call of every program, with what they depend on: the fewer of two heaps."""
    heaps = [_measure(held) for held in HELD]
    fewest = {name: min(heap[name] for heap in heaps) for name in heaps[0]}
    return {"circumstances": circumstances(), "instructions": fewest}


def _measure(held: int) -> dict[str, int]:
    """`held`: tensors that are alive beside the programs' own."""
    for tool in ("valgrind", "cc"):
        if shutil.which(tool) is None:
            raise MeasureError(f"{tool} is not installed (Debian: apt install valgrind gcc)")
    with tempfile.TemporaryDirectory(prefix="hotloop-instructions-") as name:
        work = Path(name)
        library = work / "marks.so"
        _run("cc", "-O1", "-shared", "-fPIC", "-o", library, FOLDER / "marks.c")
        environment = {
            **os.environ,
            "HOTLOOP_ISA": "avx2",
            "OMP_NUM_THREADS": "1",
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": str(ROOT / "python"),
        }
        _run(
            "valgrind", "--tool=callgrind", "--instr-atstart=no", "--dump-line=no",
            f"--callgrind-out-file={work}/out", sys.executable, FOLDER / "programs.py", library, str(held),
            environment=environment,
        )  # fmt: skip
        # out.1, out.2, ... in the order of the programs
        found = sorted(work.glob("out.*"), key=lambda path: int(path.suffix[1:] or 0))
        dumps = [path.read_text(errors="replace") for path in found]
    return counts(dumps)


def counts(dumps: list[str]) -> dict[str, int]:
    """Instructions a call from the texts of Callgrind's dumps: (those of 2 n calls - those of n) / n."""
    calls = _calls()
    totals: dict[str, dict[str, int]] = {}
    for dump in dumps:
        label, total = _LABEL.search(dump), _TOTAL.search(dump)
        if label is not None and total is not None:
            totals.setdefault(label[1], {})[label[2]] = int(total[1])
    incomplete = [name for name, parts in totals.items() if len(parts) != 2]
    if incomplete or not totals:
        raise MeasureError(f"Callgrind's dumps are incomplete: {incomplete or 'there are none'}")
    return {name: round((parts["twice"] - parts["once"]) / calls) for name, parts in totals.items()}


def _calls() -> int:
    match = re.search(r"^CALLS = (\d+)", (FOLDER / "programs.py").read_text(), re.MULTILINE)
    if match is None:
        raise MeasureError("programs.py does not say how many CALLS it makes")
    return int(match[1])


def circumstances() -> dict[str, str]:
    """Versions of everything that is counted along with the kernels."""
    code = (
        "import json, platform, tensordict, torch; from hotloop import _core;"
        "print(json.dumps({'python': platform.python_version(), 'torch': torch.__version__,"
        "'tensordict': tensordict.__version__, 'compiler': _core.build_info()['compiler']}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
    found: dict[str, str] = json.loads(_run(sys.executable, "-c", code, environment=environment))
    return {**found, "valgrind": _run("valgrind", "--version").strip()}


def compare(record: Mapping[str, Any], now: Mapping[str, Any], threshold: float) -> tuple[list[str], bool]:
    """Lines to print, and whether nothing vanished or got dearer by more than `threshold` per cent."""
    lines, fine = [], True
    for name in CIRCUMSTANCES:
        before, after = record["circumstances"].get(name), now["circumstances"].get(name)
        if before != after:
            lines.append(f"note: {name} was {before}, is {after}: differences may come from that")
    old, new = record["instructions"], now["instructions"]
    width = max(map(len, {**old, **new}), default=0)
    for name in {**old, **new}:
        if name not in new:
            lines.append(f"{name:<{width}}  {old[name]:>9,}  GONE")
            fine = False
        elif name not in old:
            lines.append(f"{name:<{width}}  {'':>9}  {new[name]:>9,}  new")
        else:
            change = 100.0 * (new[name] / old[name] - 1.0)
            worse = round(change, 6) > threshold
            fine = fine and not worse
            lines.append(
                f"{name:<{width}}  {old[name]:>9,}  {new[name]:>9,}  {change:+7.2f} %"
                + ("  WORSE" if worse else "")
            )
    return lines, fine


def _run(*command: str | Path, environment: Mapping[str, str] | None = None) -> str:
    result = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=environment, check=False
    )
    if result.returncode != 0:
        raise MeasureError(f"{' '.join(map(str, command))} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise MeasureError(f"cannot read {path}: {error}") from error


def main(argv: list[str] | None = None) -> int:
    description = "Counts the instructions of a fixed set of calls, and compares them with those on record."
    parser = argparse.ArgumentParser(prog="compare_instructions.py", description=description)
    actions = parser.add_subparsers(dest="action", required=True)
    measuring = actions.add_parser("measure", help="count, and write the record")
    measuring.add_argument("--out", type=Path, default=RECORD)
    comparing = actions.add_parser("compare", help="count (or read --counts) and compare with the record")
    comparing.add_argument("--baseline", type=Path, default=RECORD)
    comparing.add_argument("--counts", type=Path)
    comparing.add_argument("--threshold", type=float, default=THRESHOLD, help="per cent (default: 3)")
    arguments = parser.parse_args(argv)
    try:
        if arguments.action == "measure":
            found = measure()
            arguments.out.write_text(json.dumps(found, indent=1) + "\n")
            print("\n".join(f"{count:>9,}  {name}" for name, count in found["instructions"].items()))
            print(f"written to {arguments.out}")
            return 0
        record = _read(arguments.baseline)
        now = measure() if arguments.counts is None else _read(arguments.counts)
    except MeasureError as error:
        print(f"compare_instructions: {error}", file=sys.stderr)
        return 2
    lines, fine = compare(record, now, arguments.threshold)
    print("\n".join(lines))
    print("no program got dearer" if fine else f"dearer by more than {arguments.threshold} %: see WORSE")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())

"""Writes the tables of docs/performance.md on CUDA anew from `benchmarks/results/gpu_bench.json`, which `make
bench-gpu` writes on a machine with an NVIDIA GPU.

usage: python tools/gpu_figures.py [--check]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from doc_tables import replaced

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks/results/gpu_bench.json", ROOT / "docs/performance.md"
SCANS = "| rows x steps | path | MB moved | copy, us | `puff_advantage`, us | x copy | GB/s | called, us |"
OTHERS = "| op | size | MB moved | copy, us | op, us | x copy | called, us |"
LOOPS = "| job | agent steps a second | rollout, ms | training, ms |"

Record = Mapping[str, Any]


def median(record: Record, name: str) -> float | None:
    return next((float(each["median"]) for each in record["contestants"] if each["name"] == name), None)


def microseconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def timed(record: Record) -> tuple[float, float | None]:
    """The copy and the op, in a graph where the op can be recorded: what the device needs, without Python."""
    op = median(record, "in a graph")
    copy = median(record, "copy of the same bytes" if op is None else "copy, in a graph")
    assert copy is not None
    return copy, op


def path_of(rows: int, steps: int) -> str:
    """The kernel that the sources choose, by their table."""
    sys.path.insert(0, str(ROOT / "tests"))
    from cuda_host_support import host_module  # type: ignore[import-not-found]

    return str(host_module().scan_path(rows, steps, False, False))


def scans(report: Record) -> Iterator[str]:
    for record in report["ops"]:
        if record["op"] != "puff_advantage":
            continue
        rows, steps = record["shape"]
        copy, op = timed(record)
        called = median(record, "called")
        assert op is not None
        assert called is not None
        moved = record["moved_bytes"]
        cells = (
            f"{rows} x {steps}",
            path_of(rows, steps),
            f"{moved / 1e6:.2f}",
            microseconds(copy),
            microseconds(op),
            f"{op / copy:.1f}",
            f"{moved / op / 1e3:.0f}",
            microseconds(called),
        )
        yield f"| {' | '.join(cells)} |"


def others(report: Record) -> Iterator[str]:
    for record in report["ops"]:
        if record["op"] == "puff_advantage":
            continue
        copy, op = timed(record)
        called = median(record, "called")
        assert called is not None
        name, _, rest = record["title"].partition(" ")
        cells = (
            f"`{name}`",
            rest.replace("x", " x ", len(record["shape"]) - 1),
            f"{record['moved_bytes'] / 1e6:.2f}",
            microseconds(copy),
            "" if op is None else microseconds(op),
            "" if op is None else f"{op / copy:.1f}",
            microseconds(called),
        )
        yield f"| {' | '.join(cells)} |"


def loops(report: Record) -> Iterator[str]:
    for each in report["loops"]:
        cells = (
            f"{each['job']}: {each['title']}",
            f"{each['steps_per_second']:,.0f}",
            f"{each['rollout'] / 1e3:.1f}",
            f"{each['training'] / 1e3:.1f}",
        )
        yield f"| {' | '.join(cells)} |"


def written(page: str, report: Record) -> str:
    for header, rows in ((SCANS, scans), (OTHERS, others), (LOOPS, loops)):
        page = replaced(page, header, rows(report))
    return page


def main() -> int:
    page, report = PAGE.read_text(), json.loads(RESULTS.read_text())
    new = written(page, report)
    if "--check" in sys.argv[1:]:
        return 0 if new == page else 1
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())

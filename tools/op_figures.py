"""Writes the table "Figures of the ops" of docs/benchmarks.md anew from the recorded results.

The figures come from `benchmarks/results/advantages.json` and `storage.json` (one thread), which these write:

    hotloop bench --suite advantages --peers --threads 1,2 --json benchmarks/results/advantages.json \\
        --shapes 64x64,1024x64,4096x128,16384x64,64x2048 --ops puff_advantage,gae
    hotloop bench --suite sampling,store,step --threads 1 --ops minibatch,store,step \\
        --json benchmarks/results/storage.json

usage: python tools/op_figures.py [--check]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from doc_tables import replaced

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
PAGE = ROOT / "docs/benchmarks.md"
HEADER = "| job | floor | hotloop | others |"

# What the table calls the others, by the start of their names; whoever is not here is left out.
OTHERS = {
    "pufferlib-core": "pufferlib-core",
    "stable-baselines3": "Stable-Baselines3",
    "torch loop over time (as CleanRL)": "CleanRL's loop",
    "tianshou": "tianshou",
    "numba": "a numba loop",
    "torchrl": "torchrl",
    "rsl_rl": "rsl_rl",
    "skrl": "skrl",
    "rl_games": "rl_games",
    "torch loop over time": "torch loop",
    "priorities, multinomial, buffer[idx].clone()": "the reference's `multinomial`, `buffer[idx].clone()`",
    "priorities, multinomial, index_select(out=)": "`index_select(out=)`",
    "TensorDict.update_at_, a tensor of rows": "`update_at_` with a row tensor",
    "TensorDict.update_at_, a slice of rows": "with a slice",
    "clone, assign, update_at_ (as Metta)": "the reference's",
}
JOBS = {
    "minibatch": "a prioritised minibatch, S/4 of [{}, {}]",
    "store": "one step stored, {:,} agents",
    "step": "a step's whole bookkeeping",
}


def cases(name: str) -> Iterator[Mapping[str, Any]]:
    for run in json.loads((RESULTS / name).read_text())["runs"]:
        if run["threads"] == 1:
            yield from run["cases"]


def rows() -> Iterator[str]:
    for case in cases("advantages.json"):
        if case["op"] in ("puff_advantage", "gae"):
            rows, steps = case["shape"]
            time_major = case["layout"] == "time-major"
            shape = f" time-major [{steps}, {rows}]" if time_major else f" [{rows}, {steps}]"
            yield row(f"`{case['op']}`{shape}", case)
    for case in cases("storage.json"):
        if case["op"] in JOBS and case["shape"] not in ([64, 64], [64, 2048]):
            yield row(JOBS[case["op"]].format(*case["shape"]), case)


def row(job: str, case: Mapping[str, Any]) -> str:
    contestants = case["contestants"]
    floor = next(c["median"] for c in contestants if c["kind"] == "floor")
    ours = [c for c in contestants if c["kind"] == "ours"]
    plan = next((c for c in ours if c["name"] == "the same with GatherPlan"), ours[0])["median"]
    others: dict[str, str] = {}
    for start, name in OTHERS.items():
        for each in contestants:
            if each["kind"] not in ("floor", "ours") and each["name"].startswith(start):
                others.setdefault(each["name"], f"{name} {times(each['median'] / plan)}")
    return (
        f"| {job} | {number(floor)} | {number(plan)} ({plan / floor:.1f}x) | {', '.join(others.values())} |"
    )


def number(microseconds: float) -> str:
    return f"{microseconds:,.0f}" if microseconds >= 100 else f"{microseconds:.1f}"


def times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.1f}x"


def main(arguments: list[str]) -> int:
    page = PAGE.read_text()
    written = replaced(page, HEADER, rows())
    if arguments == ["--check"]:
        return int(written != page)
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    PAGE.write_text(written)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

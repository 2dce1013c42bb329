"""Writes the tables of whole loops in README.md and docs/performance.md anew from the recorded results.

The figures are in `benchmarks/results/loops.json` (one thread) and `loops_2threads.json`, which these write:

    hotloop bench --suite loops --threads 1 --rounds 5 --json benchmarks/results/loops.json
    hotloop bench --suite loops --threads 2 --rounds 4 --json benchmarks/results/loops_2threads.json \\
        --contestants hotloop,cleanrl,leanrl,reference,bare

Also prints what the sentences around the tables state.

usage: python tools/loop_figures.py [--check]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from doc_tables import replaced

ROOT = Path(__file__).resolve().parents[1]
README, PAGE = ROOT / "README.md", ROOT / "docs/performance.md"
JOBS = ("E1", "E2", "E3")

# Rows of README's table, by the start of the line, and whose speed they show.
ROWS = {
    "| hotloop |": "hotloop",
    "| hotloop, torch's tanh and linear layers in the network |": "hotloop-plain",
    "| CleanRL-style |": "cleanrl",
    "| Stable-Baselines3 |": "sb3",
    "| the same with `hotloop.policies.native_activations(model.policy)` |": "sb3-native",
    "| PufferLib's PuffeRL |": "puffer",
    "| LeanRL-style": "leanrl",
    "| Metta's loop (a double of it) |": "reference",
    "| bare |": "bare",
}
PARTS = (
    "environment adapter", "rollout", "sampling", "evaluation", "advantages", "losses", "between phases",
)  # fmt: skip
RATIOS = "| | threads | x CleanRL-style | x LeanRL-style | x bare | hotloop's own share |"
SHARES = "| | adapter | acting and storing | sampling | evaluation | advantages | losses | between |"

Found = dict[tuple[str, int, str, str], Mapping[str, Any]]


def recorded() -> Found:
    """Contestants by job, threads, name and memory."""
    found: Found = {}
    for name in ("loops.json", "loops_2threads.json"):
        for race in json.loads((ROOT / "benchmarks/results" / name).read_text())["races"]:
            for each in race["contestants"]:
                found[race["job"]["name"], race["threads"], each["name"], each["memory"]] = each
    return found


def speed(each: Mapping[str, Any]) -> float:
    return float(each["steps_per_second"]["median"])


def pair(found: Found, job: str, threads: int, name: str, what: str) -> tuple[float, float]:
    """A figure of `name` with kept memory, and with glibc's default."""
    kept, default = (found[job, threads, name, memory] for memory in ("kept", "default"))
    if what == "to_leanrl":
        others = [found[job, threads, "leanrl", memory] for memory in ("kept", "default")]
        return speed(kept) / speed(others[0]), speed(default) / speed(others[1])
    return kept[what], default[what]


def ratios(found: Found) -> Iterator[str]:
    for threads, name in ((1, "hotloop"), (2, "hotloop"), (1, "hotloop-plain")):
        for job in JOBS:
            label = f"network as torch computes it: {job}" if (name, job) == ("hotloop-plain", "E1") else job
            cells = [
                "{:.2f} ({:.2f})".format(*pair(found, job, threads, name, what))
                for what in ("to_cleanrl", "to_leanrl", "to_bare")
            ]
            kept, default = pair(found, job, threads, name, "own_share")
            yield f"| {label} | {threads} | {' | '.join(cells)} | {100 * kept:.1f} % ({100 * default:.1f}) |"


def shares(found: Found) -> Iterator[str]:
    for job in JOBS:
        parts = found[job, 1, "hotloop", "kept"]["shares"]
        cells = [f"{100 * parts['own: ' + part]:.1f}" for part in PARTS]
        yield f"| {job} | {' | '.join(cells)} |"


def readme(text: str, found: Found) -> str:
    lines = text.split("\n")
    for at, line in enumerate(lines):
        name = next((name for start, name in ROWS.items() if line.startswith(start)), None)
        if name is not None:
            speeds = [found.get((job, 1, name, "kept")) for job in JOBS]
            cells = "".join(f" {speed(each) / 1000:.0f}k |" if each else " |" for each in speeds)
            lines[at] = f"|{line.split('|')[1]}|{cells}"
    return "\n".join(lines)


def sentences(found: Found) -> Iterator[str]:
    for threads in (1, 2):
        run = [
            speed(found[job, threads, "hotloop", "kept"]) / speed(found[job, threads, "cleanrl", "default"])
            for job in JOBS
        ]
        yield f"{threads} thread(s), hotloop kept beside CleanRL-style default: " + ", ".join(
            f"{x:.2f}" for x in run
        )
    for ours, theirs in (("kept", "kept"), ("default", "default"), ("kept", "default")):
        ratio = speed(found["E3", 1, "hotloop", ours]) / speed(found["E3", 1, "reference", theirs])
        yield f"E3 beside the reference's double, {ours} and {theirs}: {ratio:.2f}"
    for name in ("hotloop", "cleanrl"):
        default = ", ".join(f"{speed(found[job, 1, name, 'default']):,.0f}" for job in JOBS)
        yield f"{name}, 1 thread, default: {default}"
    for name in ("hotloop", "cleanrl"):
        yield f"{name}, 2 threads, kept: " + ", ".join(
            f"{speed(found[job, 2, name, 'kept']):,.0f}" for job in JOBS
        )


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    found = recorded()
    page = replaced(PAGE.read_text(), RATIOS, ratios(found))
    pages = {README: readme(README.read_text(), found), PAGE: replaced(page, SHARES, shares(found))}
    if arguments:
        return int(any(path.read_text() != text for path, text in pages.items()))
    for path, text in pages.items():
        path.write_text(text)
    print("\n".join(sentences(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

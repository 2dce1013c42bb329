"""The tables of figures in README.md and docs/integrations, from what the suite has measured.

    python -m benchmarks.integrations.tables FIGURES.json ... [--merged ALL.json] [--readme README.md]

Of several files the later ones count for the races that they hold. Prints a table for each host's page.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .subject import JOBS

_LINK = re.compile(r"\(docs/integrations/(\w+)\.md\)")
_SMALL = ("64 agents",)  # README.md tells Metta's small jobs and its large ones apart


def merged(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One report of several: a race of a later one replaces that of an earlier one."""
    races: dict[tuple[Any, ...], Any] = {}
    for report in reports:
        for race in report["races"]:
            races[tuple(race[name] for name in ("host", "job", "threads", "memory"))] = race
    return {**reports[-1], "races": list(races.values())}


def chosen(report: Mapping[str, Any], host: str) -> list[Mapping[str, Any]]:
    """The host's races in the order of its jobs: one thread, memory as it is by default."""
    found = {
        race["job"]: race
        for race in report["races"]
        if race["host"] == host and race["threads"] == 1 and race["memory"] == "default"
    }
    return [found[job] for job in JOBS[host] if job in found]


def cells(races: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is replaced of an iteration, how much faster that is and how much the whole: ranges."""
    found = [race["summary"] for race in races]
    share, part, whole = ([each[name] for each in found] for name in ("share", "part", "whole"))
    return [_range([100 * x for x in share], 0, " %"), _range(part, 1, "x"), _range(whole, 2, "x")]


def readme(text: str, report: Mapping[str, Any]) -> str:
    """README.md with the last three cells of each host's row made anew."""
    lines, host = text.split("\n"), ""
    for at, line in enumerate(lines):
        if not line.startswith("| "):
            continue
        link = _LINK.search(line.split("|")[1])
        if link is None and not line.startswith("| the same, 1,024 agents |"):
            continue
        host = link[1] if link is not None else host
        races = [race for race in chosen(report, host) if "fused" not in race["job"]]
        if host == "metta":
            races = [race for race in races if (race["job"].split(", ")[1] in _SMALL) == (link is not None)]
        if races:
            kept = (
                line.rstrip(" |").split(" | ")[:2] if link is not None else ["| the same, 1,024 agents", ""]
            )
            lines[at] = " | ".join([*kept, *cells(races)]).replace(" |  | ", " | | ") + " |"
    return "\n".join(lines)


def page(report: Mapping[str, Any], host: str) -> list[str]:
    """A table of a host's page: milliseconds an iteration in what is replaced."""
    races = chosen(report, host)
    floor = any("floor" in race["summary"] for race in races)
    lines = [f"| {host} | without | with | |{' of at most |' if floor else ''} of an iteration |"]
    lines.append("| --- | --- | --- | --- |" + (" --- | --- |" if floor else " --- |"))
    for race in races:
        found = race["summary"]
        floors = found.get("floors", {})
        plain, ours = (seconds * 1e3 for seconds in found["replaced"])
        job = re.sub(r"\b(\d)(\d{3})\b", r"\1,\2", race["job"])
        most = f" {_at_most(found.get('at_most'))} |" if floor else ""
        lines.append(
            f"| {job} | {plain:.3g} | {ours:.3g} | {found['part']:.1f}x |{most} {found['share']:.0%} |"
        )
        lines += [
            f"| - {name} | {both[0] * 1e3:.3g} | {both[1] * 1e3:.3g} | {both[0] / both[1]:.1f}x |"
            + (f" {_at_most(floors.get(name, [0, None])[1])} | |" if floor else " |")
            for name, both in found["parts"].items()
            if both[1] and len(found["parts"]) > 1
        ]
    return lines


def _at_most(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.1f}x"


def main(argv: Sequence[str]) -> int:
    """Prints the tables and writes what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.integrations.tables", description=__doc__)
    parser.add_argument("figures", nargs="+", type=Path)
    parser.add_argument("--merged", type=Path, help="write all races to this file")
    parser.add_argument("--readme", type=Path, help="bring the table of this file up to date")
    options = parser.parse_args(argv)
    report = merged([json.loads(path.read_text()) for path in options.figures])
    for host in JOBS:
        if chosen(report, host):
            print("\n".join(["", *page(report, host)]))
    if options.merged is not None:
        options.merged.write_text(json.dumps(report, indent=1) + "\n")
    if options.readme is not None:
        options.readme.write_text(readme(options.readme.read_text(), report))
    return 0


def _range(numbers: Sequence[float], digits: int, unit: str) -> str:
    low, high = (f"{number:.{digits if number < 20 else 0}f}" for number in (min(numbers), max(numbers)))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

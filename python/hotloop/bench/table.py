"""Reports as text: with rich where it is installed, plain otherwise."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

HEADER = ("contestant", "median", "min", "max", "spread", "x floor", "x ours")


def has_rich() -> bool:
    return importlib.util.find_spec("rich") is not None


def microseconds(value: float) -> str:
    """A time with three digits and its unit."""
    for limit, scale, unit in ((1e3, 1.0, "us"), (1e6, 1e-3, "ms")):
        if value < limit:
            return f"{_digits(value * scale)} {unit}"
    return f"{_digits(value * 1e-6)} s"


def ratio(value: float | None) -> str:
    return "" if value is None else _digits(value)


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def to_ours(case: Mapping[str, Any]) -> list[float | None]:
    """For every contestant its median over that of the first of ours; None where none of ours took part."""
    ours = next((c["median"] for c in case["contestants"] if c["kind"] == "ours"), None)
    return [None if ours is None else c["median"] / ours for c in case["contestants"]]


def rows(case: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The cells below `HEADER`."""
    return [
        (
            contestant["name"],
            microseconds(contestant["median"]),
            microseconds(contestant["minimum"]),
            microseconds(contestant["maximum"]),
            f"{100 * contestant['spread']:.0f} %",
            ratio(contestant["to_floor"]),
            ratio(relative),
        )
        for contestant, relative in zip(case["contestants"], to_ours(case), strict=True)
    ]


def circumstances(case: Mapping[str, Any], threads: int, malloc: str) -> str:
    """What a reader of a case's figures must know."""
    sets = case["input_sets"]
    parts = [
        f"{threads} thread{'s' if threads > 1 else ''}",
        f"malloc {malloc}",
        "one set of inputs (in the cache)" if sets == 1 else f"{sets} sets of inputs in turn",
        f"{megabytes(case['moved_bytes'])} must move",
    ]
    load = case["other_load"]
    if load is not None:
        parts.append(f"other load {100 * load:.0f} %" + ("" if case["quiet"] else ": NOT QUIET"))
    if case["dropped_windows"]:
        parts.append(f"{case['dropped_windows']} loud windows dropped")
    return ", ".join(parts)


def megabytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB" if size >= 1e5 else f"{size / 1e3:.3g} kB"


def remarks(case: Mapping[str, Any]) -> list[str]:
    """Who could not take part, and notes of those who did."""
    lines = [f"{name}: not run: {why}" for name, why in case["absent"].items()]
    return [*lines, *(f"{c['name']}: {c['note']}" for c in case["contestants"] if c["note"])]


def machine_lines(machine: Mapping[str, Any]) -> list[str]:
    """The machine in a few lines."""
    cache = machine["last_level_cache_bytes"] >> 20
    return [
        f"{machine['processor']}, {machine['usable_cores']} of {machine['cores']} cores, "
        f"{cache} MiB of cache, {machine['instruction_set']}",
        f"hotloop {machine['hotloop']}"
        + (f" at {machine['commit']}" if machine["commit"] else "")
        + f", torch {machine['torch']}, tensordict {machine['tensordict']}, Python {machine['python']}, "
        f"{machine['compiler']}, {machine['system']}",
    ]


def plain_case(case: Mapping[str, Any], threads: int, malloc: str) -> str:
    """One case as plain text."""
    cells = [HEADER, *rows(case)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADER))]
    lines = [case["title"], f"  {circumstances(case, threads, malloc)}"]
    lines += ["  " + _aligned(row, widths) for row in cells]
    lines += [f"  {remark}" for remark in remarks(case)]
    return "\n".join(lines)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()


class Printer:
    """Prints a report as it comes."""

    def __init__(self, plain: bool) -> None:
        self._plain = plain or not has_rich()

    def machine(self, machine: Mapping[str, Any]) -> None:
        print("\n".join(machine_lines(machine)), flush=True)

    def absent(self, op: str, why: str) -> None:
        print(f"not measured: {op}: {why}", flush=True)

    def wrong(self, message: str) -> None:
        print(f"\nWRONG RESULT: {message}", flush=True)

    def case(self, case: Mapping[str, Any], threads: int, malloc: str) -> None:
        print(flush=True)
        if self._plain:
            print(plain_case(case, threads, malloc), flush=True)
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=case["title"], title_justify="left", title_style="bold", box=None, pad_edge=False)
        for i, name in enumerate(HEADER):
            table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
        styles = {"ours": "green", "floor": "dim"}
        cells = rows(case)
        for row, contestant in zip(cells, case["contestants"], strict=True):
            table.add_row(*map(Text, row), style=styles.get(contestant["kind"]))
        # A table that is cut off is of no use: a narrow window, and a pipe, get whole lines.
        needed = sum(max(len(row[i]) for row in [HEADER, *cells]) + 2 for i in range(len(HEADER)))
        console = Console(highlight=False, width=max(needed, Console().width))
        console.print(table)
        for line in (circumstances(case, threads, malloc), *remarks(case)):
            console.print(Text(line, style="dim"), soft_wrap=True)

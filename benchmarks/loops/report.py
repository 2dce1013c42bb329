"""What a race looks like on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADER = ("contestant", "memory", "steps/s", "min", "max", "x cleanrl", "x bare", "own", "warm-up")


def race_lines(race: Mapping[str, Any]) -> list[str]:
    """A race as plain text."""
    job, threads = race["job"], race["threads"]
    load = race["other_load"]
    circumstances = f"{threads} thread{'s' if threads > 1 else ''}, {race['rounds']} rounds" + (
        "" if load is None else f", other load {100 * load:.0f} %" + ("" if race["quiet"] else ": NOT QUIET")
    )
    size = (
        f"{job['agents']} agents x {job['horizon']} steps, "
        f"{job['minibatches']} minibatches x {job['update_epochs']}"
    )
    lines = [f"{job['name']}: {job['title']}", f"  {size}; {circumstances}"]
    lines += table([HEADER, *(row(contestant) for contestant in race["contestants"])])
    for contestant in race["contestants"]:
        if contestant["shares"]:
            lines += share_lines(contestant)
    lines += absent_lines(race["absent"])
    notes = {c["name"]: c["note"] for c in race["contestants"] if c["note"]}
    return [*lines, *(f"  {name}: {note}" for name, note in notes.items())]


def row(contestant: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells below `HEADER`."""
    speed = contestant["steps_per_second"]
    share = contestant["own_share"]
    return (
        contestant["name"],
        contestant["memory"],
        *(f"{speed[name]:,.0f}" for name in ("median", "minimum", "maximum")),
        _ratio(contestant["to_cleanrl"]),
        _ratio(contestant["to_bare"]),
        "" if share is None else f"{100 * share:.1f} %",
        f"{contestant['warm_up_seconds']:.1f} s",
    )


def share_lines(contestant: Mapping[str, Any]) -> list[str]:
    """What an epoch is made of."""
    parts = [f"{name} {100 * share:.1f} %" for name, share in contestant["shares"].items()]
    others = [part for part in parts if not part.startswith("own")]
    own = [part.removeprefix("own: ") for part in parts if part.startswith("own: ")]
    head = f"  {contestant['name']}, memory {contestant['memory']}: "
    return [head + ", ".join(others), "    own: " + ", ".join(own)]


def absent_lines(absent: Mapping[str, str]) -> list[str]:
    """Who could not take part, and why; a reason that holds for several is given once."""
    by_reason: dict[str, list[str]] = {}
    for name, why in absent.items():
        by_reason.setdefault(why, []).append(name)
    return [f"  not run: {'; '.join(names)}: {why}" for why, names in by_reason.items()]


def learning_lines(found: Mapping[str, Any]) -> list[str]:
    """What was learnt at one job, as plain text."""
    job, verdict = found["job"], found["verdict"]
    cells = [("contestant", "", "mean return", "by seed")]
    for contestant in found["contestants"]:
        by_seed = ", ".join(f"{value:.1f}" for value in contestant["returns"])
        cells.append((contestant["name"], "", f"{contestant['mean']:.1f}", by_seed))
    lines = [f"{job['name']}: {job['title']}: returns after {found['steps']:,} steps", *table(cells)]
    if verdict["place"] is None:
        lines.append("  hotloop's place cannot be told: it, or every other contestant, is missing")
    else:
        spread = f"{verdict['lowest']:.1f} to {verdict['highest']:.1f}"
        lines.append(f"  hotloop's mean is {verdict['place']} the spread of the others, {spread}")
    return lines + absent_lines(found["absent"])


def table(cells: Sequence[Sequence[str]]) -> list[str]:
    """Rows with aligned columns: the first two to the left, the others to the right."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return ["  " + "  ".join(_aligned(row, widths)) for row in cells]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    pairs = zip(row, widths, strict=True)
    return [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(pairs)]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"

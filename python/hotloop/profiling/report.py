"""What a profile says: phases, hottest lines, host reads, bytes, and what hotloop could still save."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotloop.profiling import hooks
from hotloop.profiling.clock import GLUE, LOSS

if TYPE_CHECKING:
    from hotloop.profiling.clock import PhaseClock
    from hotloop.profiling.hooks import Hooks
    from hotloop.profiling.sampler import LineSampler

_MOST_LINES = 12
_FEWEST = 0.005  # of the wall time: less is not worth a line

# Phases that are not hotloop's but could be, and by what.
_REPLACEMENTS: dict[str, str] = {
    hooks.DISTRIBUTION: "categorical_sample and categorical_evaluate of hotloop.ops, or their Gaussian twins",
    LOSS: "hotloop.ops.ppo_loss",
    hooks.GATHER: "hotloop.ops.gather, or hotloop.Experience",
    hooks.CLIPPING: "hotloop.ops.clip_grad_norm_",
}
# And lines of Python glue, by what they say.
_ADVANTAGES = re.compile(r"(?i)last_?gae|gae_?lambda|\bdelta\b|advantages?\[|nextnonterminal|nextvalues")
_SHUFFLES = re.compile(r"shuffle\(|randperm\(|multinomial\(|permutation\(")
_STORES = re.compile(r"^\w+(\.\w+)*\[(step|t|i|self\.\w+)\] = ")
_LINES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (_ADVANTAGES, "advantages, step by step", "hotloop.ops.gae, or hotloop.integrations.cleanrl.gae"),
    (_SHUFFLES, "drawing minibatches", "hotloop.SegmentSampler"),
    (_STORES, "storing steps", "hotloop.ops.StorePlan, or hotloop.Experience"),
)


def make_report(
    clock: PhaseClock, found: Hooks, sampler: LineSampler, usage: Mapping[str, float]
) -> dict[str, Any]:
    """A report, as plain values.

    Returns:
        `wall` (seconds), `updates` (optimizer steps), `phases`: a list of `name`, `seconds`, `share`
        (of the wall time)
        and `calls`, most seconds first, which add up to the wall time; `lines`: where the time in no
        phase goes, `share`
        again of the wall time; `host_reads`: calls by name of what makes the host wait where tensors
        are on a GPU;
        `traffic`: see `Traffic.rows`; `usage`: page faults and CPU seconds; `savings`: `part`,
        `seconds`, `share` and `by`: what hotloop could take over, at most.
    """
    wall = clock.wall
    phases = [
        {"name": name, "seconds": seconds, "share": seconds / wall, "calls": clock.calls.get(name, 0)}
        for name, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1])
    ]
    lines = [
        {**line, "share": line["share"] * clock.seconds.get(line["phase"], 0.0) / wall}
        for line in sampler.lines()
    ]
    traffic = found.traffic.rows()
    return {
        "wall": wall,
        "updates": found.updates,
        "phases": phases,
        "lines": sorted(lines, key=lambda line: -line["share"]),
        "host_reads": dict(found.host_reads),
        "traffic": traffic,
        "usage": dict(usage),
        "savings": _savings(clock.seconds, lines, traffic, wall),
    }


def _savings(
    seconds: Mapping[str, float],
    lines: Sequence[Mapping[str, Any]],
    traffic: Sequence[Mapping[str, Any]],
    wall: float,
) -> list[dict[str, Any]]:
    found = []
    # Indexing has to copy, whoever does it.
    floors = {hooks.GATHER: sum(row["floor"] for row in traffic if row["name"] == "Tensor[rows]")}
    for phase, by in _REPLACEMENTS.items():
        found.append((phase, seconds.get(phase, 0.0) - floors.get(phase, 0.0), by))
    taken: set[int] = set()
    for pattern, part, by in _LINES:
        share = 0.0
        for k, line in enumerate(lines):
            if k not in taken and line["phase"] == GLUE and pattern.search(line["text"]):
                taken.add(k)
                share += line["share"]
        found.append((part, share * wall, by))
    return [
        {"part": part, "seconds": spent, "share": spent / wall, "by": by}
        for part, spent, by in sorted(found, key=lambda item: -item[1])
        if spent / wall >= _FEWEST
    ]


def text(report: Mapping[str, Any]) -> str:
    """A report as tables of plain text."""
    wall = report["wall"]
    total = sum(phase["seconds"] for phase in report["phases"])
    rows = [
        (
            phase["name"],
            f"{phase['seconds']:.3f}",
            f"{phase['share']:.1%}",
            _count(phase["calls"]),
            _each(phase),
        )
        for phase in report["phases"]
    ]
    told = [f"{wall:.2f} s of wall time, {report['updates']} optimizer steps", ""]
    told += _table(("phase", "seconds", "share", "calls", "us each"), rows)
    told += ["", f"The phases add up to {total:.3f} s: {total / wall:.1%} of the wall time."]
    lines = [line for line in report["lines"] if line["share"] >= _FEWEST][:_MOST_LINES]
    if lines:
        told += ["", f"Where {GLUE} and {LOSS} are, by samples:", ""]
        told += _table(
            ("share", "where", "line"),
            [(f"{line['share']:.1%}", _where(line), line["text"][:70]) for line in lines],
        )
    if report["traffic"]:
        told += ["", "Bytes read and written at least, beside copies of as many:", ""]
        told += _table(
            ("function", "calls", "MB", "seconds", "copies", "ratio"),
            [
                (
                    row["name"], _count(row["calls"]), f"{row['bytes'] / 1e6:.1f}", f"{row['seconds']:.3f}",
                    f"{row['floor']:.3f}", "" if row["ratio"] is None else f"{row['ratio']:.1f}x",
                )
                for row in report["traffic"]
            ],
        )  # fmt: skip
    told += ["", *_remarks(report)]
    return "\n".join(told)


def _remarks(report: Mapping[str, Any]) -> list[str]:
    told = []
    reads = {name: count for name, count in report["host_reads"].items() if count}
    if reads:
        listed = ", ".join(
            f"{name} {count}" for name, count in sorted(reads.items(), key=lambda item: -item[1])
        )
        told.append(f"Reads by the host, each of which waits where the tensor is on a GPU: {listed}.")
    usage = report["usage"]
    if usage.get("system_seconds", 0.0) > 0.05 * report["wall"]:
        told.append(
            f"The kernel took {usage['system_seconds']:.2f} s, with {usage['page_faults']:.0f} page faults: "
            "try hotloop.keep_freed_memory()."
        )
    if report["savings"]:
        told += ["", "What hotloop could take over, at most:", ""]
        told += _table(
            ("seconds", "share", "part", "by"),
            [(f"{s['seconds']:.3f}", f"{s['share']:.1%}", s["part"], s["by"]) for s in report["savings"]],
        )
        share = sum(saving["share"] for saving in report["savings"])
        told += ["", f"Together {share:.1%} of the wall time: at most {1 / (1 - share):.2f} times as fast."]
    else:
        told.append("hotloop has nothing more to take over here.")
    return told


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of numbers to the right, others to the left."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    numbers = [all(re.fullmatch(r"[\d.,%x]*", row[k]) for row in rows) for k in range(len(headings))]
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in (headings, *rows)
    ]


def _count(calls: int) -> str:
    return str(calls) if calls else ""


def _each(phase: Mapping[str, Any]) -> str:
    return f"{phase['seconds'] / phase['calls'] * 1e6:.1f}" if phase["calls"] else ""


def _where(line: Mapping[str, Any]) -> str:
    return f"{Path(line['file']).name}:{line['line']} {line['function']}"

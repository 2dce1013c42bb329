"""Reports as one HTML file with plots as inline SVG: nothing is fetched from anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape
from itertools import groupby
from typing import Any

from hotloop.bench.table import HEADER, circumstances, machine_lines, microseconds, ratio, remarks, rows

_COLOURS = {"floor": "#8a8f98", "ours": "#1b7f5c", "peer": "#b4552d", "loop": "#c79a3a", "torch": "#4a6fa5"}
_MEANINGS = {
    "floor": "copy of the bytes that must move",
    "ours": "hotloop",
    "peer": "another system's own code",
    "loop": "a loop or a few lines as others have them",
    "torch": "torch's own functions",
}
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1e21; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd }
h3 { font-size: 1rem; margin: 1.6rem 0 .2rem } p { margin: .2rem 0 }
.small { color: #5b6068; font-size: .85rem }
.wrong { color: #a01818; font-weight: 600 } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; margin: .4rem 0 }
td, th { padding: .1rem .7rem .1rem 0; text-align: right; white-space: nowrap }
td:first-child, th:first-child { text-align: left } tr.ours td { color: #1b7f5c; font-weight: 600 }
.key span { display: inline-block; margin-right: 1.2rem }
.key i { display: inline-block; width: .8em; height: .8em }
"""
_BAR, _GAP, _LABELS, _PLOT, _VALUES = 16, 6, 330, 470, 120


def render(report: Mapping[str, Any]) -> str:
    """The whole page."""
    body = "".join(_body(report))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>hotloop bench</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _body(report: Mapping[str, Any]) -> Iterator[str]:
    machine = report["machine"]
    yield "<h1>hotloop bench</h1>"
    for line in machine_lines(machine):
        yield f"<p>{escape(line)}</p>"
    yield f'<p class="small">{escape(machine["date"])}. Bars show medians, on a logarithmic axis; the thin '
    yield "line goes from the minimum to the maximum. All contestants of a plot were timed in turn, in one "
    yield "process.</p>"
    yield '<p class="small key">' + "".join(
        f'<span><i style="background:{colour}"></i> {_MEANINGS[kind]}</span>'
        for kind, colour in _COLOURS.items()
    )
    yield "</p>"
    for run in report["runs"]:
        threads, malloc = run["threads"], run["malloc"]
        yield f"<h2>{threads} thread{'s' if threads > 1 else ''}, malloc {escape(malloc)}</h2>"
        for entry in run["absent"]:
            yield f'<p class="small">not measured: {escape(entry["op"])}: {escape(entry["why"])}</p>'
        for entry in run["wrong"]:
            yield f'<p class="wrong">wrong result: {escape(entry["message"])}</p>'
        for _, cases in groupby(run["cases"], key=lambda case: case["suite"]):
            for case in cases:
                yield from _case(case, threads, malloc)


def _case(case: Mapping[str, Any], threads: int, malloc: str) -> Iterator[str]:
    yield f"<h3>{escape(case['suite'])}: {escape(case['title'])}</h3>"
    yield f'<p class="small">{escape(circumstances(case, threads, malloc))}</p>'
    yield f'<div class="scroll">{bars(case)}</div>'
    yield '<details><summary class="small">figures</summary><div class="scroll"><table><tr>'
    yield "".join(f"<th>{escape(name)}</th>" for name in HEADER) + "</tr>"
    for row, contestant in zip(rows(case), case["contestants"], strict=True):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        yield f'<tr class="{escape(contestant["kind"])}">{cells}</tr>'
    yield "</table></div></details>"
    for remark in remarks(case):
        yield f'<p class="small">{escape(remark)}</p>'


def axis(smallest: float, largest: float) -> tuple[int, int]:
    """The decades, as exponents of ten, that hold both numbers; at least one."""
    low = math.floor(math.log10(max(smallest, 1e-3)))
    high = math.ceil(math.log10(max(largest, 1e-3)))
    return low, max(high, low + 1)


def bars(case: Mapping[str, Any]) -> str:
    """A bar for every contestant, in microseconds on a logarithmic axis."""
    contestants = case["contestants"]
    low, high = axis(min(c["minimum"] for c in contestants), max(c["maximum"] for c in contestants))

    def x(value: float) -> float:
        part = (math.log10(max(value, 10.0**low)) - low) / (high - low)
        return _LABELS + _PLOT * min(1.0, part)

    height = len(contestants) * (_BAR + _GAP) + 22
    width = _LABELS + _PLOT + _VALUES
    parts = [
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(case["title"], quote=True)}" font-size="12" '
        'font-family="system-ui, sans-serif">'
    ]
    for exponent in range(low, high + 1):
        at = x(10.0**exponent)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height - 18}" stroke="#e3e5e8"/>')
        label = microseconds(10.0**exponent).replace(".00", "").replace(".0 ", " ")
        parts.append(
            f'<text x="{at:.1f}" y="{height - 4}" text-anchor="middle" fill="#5b6068">{label}</text>'
        )
    for i, contestant in enumerate(contestants):
        y = i * (_BAR + _GAP) + 2
        middle, colour = y + _BAR / 2, _COLOURS[contestant["kind"]]
        end, first, last = x(contestant["median"]), x(contestant["minimum"]), x(contestant["maximum"])
        text = f"{microseconds(contestant['median'])}"
        if contestant["to_floor"] is not None and contestant["kind"] != "floor":
            text += f" ({ratio(contestant['to_floor'])}x)"
        parts += [
            f'<text x="{_LABELS - 8}" y="{middle + 4:.1f}" text-anchor="end">'
            f"{escape(contestant['name'])}</text>",
            f'<rect x="{_LABELS}" y="{y}" width="{max(1.0, end - _LABELS):.1f}" height="{_BAR}" '
            f'fill="{colour}"/>',
            f'<line x1="{first:.1f}" x2="{last:.1f}" y1="{middle}" y2="{middle}" stroke="#1c1e21"/>',
            f'<text x="{max(end, last) + 6:.1f}" y="{middle + 4:.1f}">{text}</text>',
        ]
    return "".join(parts) + "</svg>"

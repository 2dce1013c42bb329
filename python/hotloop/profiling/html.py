"""A profile as one HTML file with plots as inline SVG: nothing is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from hotloop.profiling import hooks
from hotloop.profiling.report import text

_COLOURS = (
    (hooks.HOTLOOP, "#1b7f5c"),
    (hooks.ENVIRONMENT, "#4a6fa5"),
    ("policy", "#7a5ca8"),
    (hooks.BACKWARD, "#9a7fc0"),
    (hooks.OPTIMIZER, "#b79bd6"),
)
_OTHER = "#b4552d"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1e21; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2rem }
pre { font-size: .8rem; overflow-x: auto; background: #f6f7f8; padding: .8rem }
text { font: 13px system-ui, sans-serif } .small { color: #5b6068; font-size: .85rem }
"""
_BAR, _GAP, _LABELS, _PLOT, _VALUES = 18, 6, 250, 520, 130


def render(report: Mapping[str, Any]) -> str:
    """The whole page."""
    body = "".join(_body(report))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>hotloop profile</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _body(report: Mapping[str, Any]) -> Iterator[str]:
    yield "<h1>hotloop profile</h1>"
    yield f"<p>{report['wall']:.2f} s of wall time, {report['updates']} optimizer steps.</p>"
    yield '<p class="small">Every moment belongs to one phase; green: those of hotloop itself.</p>'
    yield f"<h2>Phases</h2>{_plot(report['phases'], 'name')}"
    if report["savings"]:
        yield f"<h2>What hotloop could take over, at most</h2>{_plot(report['savings'], 'part')}"
    yield f"<h2>In full</h2><pre>{escape(text(report))}</pre>"


def _plot(parts: Sequence[Mapping[str, Any]], key: str) -> str:
    return bars([(p[key], p["seconds"], f"{p['seconds']:.3f} s, {p['share']:.1%}") for p in parts])


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """One bar a row, on a linear axis from 0."""
    most = max((value for _, value, _ in rows), default=0.0) or 1.0
    height = len(rows) * (_BAR + _GAP)
    drawn = [f'<svg width="{_LABELS + _PLOT + _VALUES}" height="{height}" role="img">']
    for k, (name, value, told) in enumerate(rows):
        y, width = k * (_BAR + _GAP), max(1.0, value / most * _PLOT)
        colour = next((c for start, c in _COLOURS if name.startswith(start)), _OTHER)
        base = y + _BAR - 5
        drawn.append(
            f'<text x="{_LABELS - 8}" y="{base}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{_LABELS}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'
            f'<text x="{_LABELS + width + 6:.1f}" y="{base}">{escape(told)}</text>'
        )
    return "".join(drawn) + "</svg>"

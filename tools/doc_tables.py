"""Tables in Markdown pages that tools write."""

from __future__ import annotations

from collections.abc import Iterable


def replaced(page: str, header: str, rows: Iterable[str]) -> str:
    """The page with the rows under a table's header replaced."""
    before, _, rest = page.partition(header)
    rule, *lines = rest.lstrip("\n").split("\n")
    while lines and lines[0].startswith("|"):
        lines.pop(0)
    return "\n".join([before + header, rule, *rows, *lines])

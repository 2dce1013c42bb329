"""``hotloop integrations``: which trainers hotloop slips into, and which of them are installed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from hotloop.integrations.patches import status

_HEADINGS = ("host", "installed", "tested with", "becomes hotloop's")


def main(argv: Sequence[str]) -> int:
    """Runs ``hotloop integrations``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="hotloop integrations",
        description="List the trainers that hotloop slips into: what is installed, tested and replaced.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    if parser.parse_args(argv).json:
        print(json.dumps(status(), indent=1))
    else:
        print("\n".join(lines(status())))
    return 0


def lines(hosts: Sequence[dict[str, Any]]) -> list[str]:
    """A table of what `status()` returns, then the line that each host takes."""
    rows = [
        (host["name"], _state(host), ", ".join(host["tested"]) or "-", host["replaces"]) for host in hosts
    ]
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (_HEADINGS, *rows)
    ]
    width = max(len(host["name"]) for host in hosts)
    uses = [f"{host['name'].ljust(width)}  {host['use']}" for host in hosts]
    patched = [f"patched now: {name}" for host in hosts for name in host["patched"]]
    return [*table, "", *uses, "", *(patched or ["nothing is patched in this process"])]


def _state(host: dict[str, Any]) -> str:
    if not host["installed"]:
        return "no"
    if host["version"] is None:
        return "yes" if host["name"] != "cleanrl" else "nothing needed"
    return str(host["version"]) + ("" if host["version"] in host["tested"] else " (untested)")

"""The record of what the pages' commands came to, `benchmarks/results/docs_commands.json`, and its table.

Every command of every page is in it, also what was not run, with the reason. A record may be put together
from several calls: what an earlier one ran stays, marked stale where that was at another commit.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from docs_command_runner import Outcome
from docs_command_stages import Part, Share
from docs_commands import Statement

FORMAT = 1
BY_PAGES = "left out by --pages"  # not in the table, which would be as long as that of all pages
Entry = dict[str, Any]
COLOURS = {"passed": "green", "failed": "bold red", "timed out": "bold red", "not run": "yellow"}


def commit_of(root: Path, *, apart_from: Path) -> str:
    """The commit of a checkout, `+` behind it where committed files, but for the record, were changed."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout

    changed = [line[3:] for line in git("status", "--porcelain", "--untracked-files=no").splitlines()]
    own = str(apart_from.relative_to(root)) if apart_from.is_relative_to(root) else ""
    return git("rev-parse", "--short", "HEAD").strip() + "+" * any(path != own for path in changed)


def _as_documented(statement: Statement) -> Entry:
    entry: Entry = {"page": statement.page, "line": statement.line, "command": statement.text}
    if statement.inline:
        entry["inline"] = True
    if statement.also:
        entry["also"] = list(statement.also)
    return entry


def entry_run(statement: Statement, outcome: Outcome, commit: str, date: str) -> Entry:
    found = {name: value for name, value in dataclasses.asdict(outcome).items() if value not in ("", ())}
    found.setdefault("exit_code", None)
    lists = {name: list(value) for name, value in found.items() if isinstance(value, tuple)}
    return {**_as_documented(statement), **found, **lists, "commit": commit, "date": date}


def entry_not_run(statement: Statement, reason: str) -> Entry:
    return {**_as_documented(statement), "outcome": "not run", "reason": reason}


def entry_part(statement: Statement, part: Part, share: Share, commit: str, date: str) -> Entry:
    """Of a command that another one has run."""
    if share.outcome == "not run":
        return entry_not_run(statement, f"{part.whole} ended before it")
    took = {} if share.seconds is None else {"seconds": share.seconds}
    told = {"outcome": share.outcome, **took, "within": part.whole, "note": part.told}
    return {**_as_documented(statement), **told, "commit": commit, "date": date}


def was_run(entry: Mapping[str, Any]) -> bool:
    return bool(entry["outcome"] != "not run")


def keys(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    """Page, command, and the how manieth time that it stands there: lines move."""
    seen = collections.Counter[tuple[str, str]]()
    keys = []
    for entry in entries:
        pair = (entry["page"], entry["command"])
        keys.append((*pair, seen[pair]))
        seen[pair] += 1
    return keys


def merge(entries: Sequence[Entry], earlier: Sequence[Entry], commit: str) -> list[Entry]:
    """Those of this call, and in place of what it left out what an earlier one had run.

    Commands that the pages no longer have are dropped. What was left out for good, such as for want of a GPU,
    stays so only where no call has run it.
    """
    known = dict(zip(keys(earlier), earlier, strict=True))
    merged = []
    for key, entry in zip(keys(entries), entries, strict=True):
        old = known.get(key)
        if was_run(entry) or old is None or not was_run(old):
            merged.append(entry)
            continue
        place: Entry = {name: entry[name] for name in ("line", "inline", "also") if name in entry}
        kept: Entry = {
            name: value for name, value in old.items() if name not in ("line", "inline", "also", "stale")
        }
        merged.append({**kept, **place, **({"stale": True} if old["commit"] != commit else {})})
    return merged


def failures(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry["outcome"] in ("failed", "timed out")]


def write(path: Path, head: Mapping[str, Any], entries: Sequence[Entry]) -> None:
    """In one step, so that an interrupted call leaves the record of the last command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, **head, "commands": list(entries)}, indent=1)
    new = path.with_name(path.name + ".new")
    new.write_text(text + "\n")
    new.replace(path)


def read(path: Path) -> dict[str, Any]:
    """An earlier record; an empty one where there is none."""
    if not path.exists():
        return {"commands": []}
    record: dict[str, Any] = json.loads(path.read_text())
    if record.get("format") != FORMAT:
        raise SystemExit(f"{path.name}: --merge knows format {FORMAT}, got {record.get('format')}")
    return record


def _note(entry: Entry) -> str:
    parts = [f"at {entry['commit']}, stale"] if entry.get("stale") else []
    parts += [entry[name] for name in ("reason", "note") if name in entry]
    parts += [f"exit code {entry['exit_code']}"] if entry.get("exit_code") else []
    parts += [f"beside {entry['beside']}"] if "beside" in entry else []
    parts += [f"after {line}" for line in entry.get("after", [])]
    parts += [f"with {line}" for line in entry.get("stand_ins", [])]
    parts += [f"changed {', '.join(entry['changed'])}"] if "changed" in entry else []
    return "; ".join(parts)


def show(entries: Sequence[Entry], console: Console) -> None:
    table = Table("where", "command", "outcome", "seconds", "note", box=None, header_style="bold")
    table.columns[3].justify = "right"
    hidden = [entry for entry in entries if entry.get("reason") == BY_PAGES]
    for entry in (entry for entry in entries if entry not in hidden):
        colour = COLOURS[entry["outcome"]]
        table.add_row(
            f"{entry['page']}:{entry['line']}", escape(entry["command"]), f"[{colour}]{entry['outcome']}[/]",
            f"{entry['seconds']:.1f}" if "seconds" in entry else "", escape(_note(entry)),
        )  # fmt: skip
    console.print(table)
    console.print(total(entries) + (f"; not shown: {len(hidden)} {BY_PAGES}" if hidden else ""))


def total(entries: Sequence[Entry]) -> str:
    """One line: how many came to what."""
    counts = collections.Counter(entry["outcome"] for entry in entries)
    stale = sum(bool(entry.get("stale")) for entry in entries)
    told = [f"{counts[name]} {name}" for name in COLOURS if counts[name]]
    # what another command ran is in that one's time
    seconds = sum(entry.get("seconds", 0.0) for entry in entries if "within" not in entry)
    return f"{len(entries)} commands: {', '.join(told)}; {stale} stale; {seconds:.0f} s"

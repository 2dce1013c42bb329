"""Which of the pages' commands a call runs itself, which another of its commands runs, and which two at a
time.

`.ci/run` takes a quarter of the time and mostly one core. Beside it run the commands that need of the
checkout no more than its environment: trainings, pip in environments of their own. What measures is run
alone.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import docs_command_record as records
from docs_command_runner import FRESH, installs_in_checkout
from docs_command_stages import CI, Part
from docs_commands import Statement

MEASURES = re.compile(r"\bbench\b")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Indices of statements, in the order in which they are run."""

    alone: list[int]
    beside: list[int]  # while `.ci/run` is under way
    parts: dict[int, tuple[int, Part]]  # run by another one: its index, and which part of it
    passed: set[int]  # in an earlier call

    @property
    def number(self) -> int:
        return len(self.alone) + len(self.beside)


def plan(
    statements: Sequence[Statement],
    left_out: Callable[[Statement], bool],
    parts: Mapping[str, Part],
    earlier: Sequence[Mapping[str, Any]],
    commit: str,
) -> Plan:
    """`earlier`: entries of a record, of which what passed at `commit` is not run again."""
    passed = already_passed(statements, left_out, earlier, commit)
    chosen = [i for i, s in enumerate(statements) if i not in passed and not left_out(s)]
    wholes = {statements[index].text: index for index in reversed(chosen)}
    found = {}
    for index in chosen:
        part = parts.get(statements[index].text)
        if part is not None and part.whole in wholes:
            found[index] = (wholes[part.whole], part)
    chosen = [index for index in chosen if index not in found]
    beside = [] if CI not in wholes else beside_of(statements, chosen)
    return Plan([index for index in chosen if index not in beside], beside, found, passed)


def beside_of(statements: Sequence[Statement], chosen: Sequence[int]) -> list[int]:
    """What runs in scratch folders, but for the pages where one of that measures, or presumes more than is
    installed in the checkout: lines of a page may need each other."""
    scratch = [index for index in chosen if not statements[index].in_checkout]
    alone = {
        statements[index].page
        for index in scratch
        if MEASURES.search(statements[index].text) or installs_in_checkout(statements[index].text)
    }
    return [index for index in scratch if statements[index].page not in alone]


def needs_wheels(statements: Sequence[Statement], indices: Sequence[int]) -> bool:
    """Whether one of them installs hotloop itself."""
    return any(FRESH.search(statements[index].text) for index in indices)


def already_passed(
    statements: Sequence[Statement],
    left_out: Callable[[Statement], bool],
    earlier: Sequence[Mapping[str, Any]],
    commit: str,
) -> set[int]:
    """Lines of a page find what those before left in its scratch folder, which is gone: all of them are run
    again where one is."""
    if commit.endswith("+"):  # which may have been another state of the checkout
        return set()
    known = dict(zip(records.keys(earlier), earlier, strict=True))
    keys = records.keys([{"page": s.page, "command": s.text} for s in statements])
    passed = {
        index
        for index, key in enumerate(keys)
        if key in known and known[key]["outcome"] == "passed" and known[key]["commit"] == commit
    }
    again = {
        statement.page
        for index, statement in enumerate(statements)
        if index not in passed and not statement.in_checkout and not left_out(statement)
    }
    return {index for index in passed if statements[index].in_checkout or statements[index].page not in again}

"""Commands that another command of the pages runs: `make lint` is a stage of `.ci/run`.

What a stage came to is read from what `.ci/run` prints at its end, so the command need not be run a second
time.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

CI = ".ci/run"
# Whole recipes: `make bench` is this command, with files for its figures.
RECIPES = {"hotloop bench": "make bench"}
_STAGE = re.compile(r"^stage \"(?P<label>[^\"]+)\" (?P<command>.+)$", re.MULTILINE)
_TIMING = re.compile(r"^ *(?P<seconds>\d+) s  (?P<label>.+)$", re.MULTILINE)
_FAILED = re.compile(r"^FAILED in stage: (?P<label>.+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Part:
    """Where a command is run as a part of another one."""

    whole: str
    stage: str = ""  # as `.ci/run` prints it; empty where it is all of the other one

    @property
    def told(self) -> str:
        return f"ran as a stage of {self.whole}" if self.stage else f"ran as all of {self.whole}"


@dataclasses.dataclass(frozen=True)
class Share:
    """What a part came to."""

    outcome: str  # passed, failed, timed out; `not run` where the whole ended before it
    seconds: float | None = None


def parts_of(root: Path) -> dict[str, Part]:
    """By the text of the command."""
    parts = {text: Part(whole) for text, whole in RECIPES.items()}
    script = root / CI
    if not script.exists():
        return parts
    text = script.read_text()
    functions = dict(re.findall(r"^(\w+)\(\) \{ (make [^|;]*?) *[|;].*\}$", text, re.MULTILINE))
    for match in _STAGE.finditer(text):
        command = str(functions.get(match["command"], match["command"]))
        if command.startswith("make "):
            parts[command] = Part(CI, match["label"])
    return parts


def share_of(part: Part, outcome: str, seconds: float, printed: str) -> Share:
    """Of a part, when its whole has come to `outcome` in `seconds` and has `printed` that."""
    if not part.stage:
        return Share(outcome, seconds)
    took = {match["label"]: float(match["seconds"]) for match in _TIMING.finditer(printed)}
    if part.stage in took:
        return Share("passed", took[part.stage])
    failed = _FAILED.search(printed)
    if failed is not None and failed["label"] == part.stage:
        return Share("failed")
    return Share("not run")

"""Griffe loads this to read the docstrings (mkdocs.yml): written for help() and for the site alike."""

from __future__ import annotations

import re
from typing import Any

import griffe

# `a, b: text` of a section in Google's style, `a, b` above its text in NumPy's; text is indented further.
GOOGLE = re.compile(r"^( +)(\w+(?:, \w+)+): (.*\n?(?:\1 +.*\n?)*)", re.MULTILINE)
NUMPY = re.compile(r"^(\w+(?:, \w+)+)\n((?: +.*\n?)+)", re.MULTILINE)


def rewritten(text: str) -> str:
    """Text that reads the same: `text::` before a block is `text:` in Markdown, and each of several
    parameters that share a description gets it, so that types and defaults stand beside the right ones."""
    text = re.sub(r"(?<=\S)::$", ":", text, flags=re.MULTILINE)
    text = GOOGLE.sub(lambda m: "".join(f"{m[1]}{name}: {ended(m[3])}" for name in m[2].split(", ")), text)
    return NUMPY.sub(lambda m: "".join(f"{name}\n{ended(m[2])}" for name in m[1].split(", ")), text)


def ended(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"


class Docstrings(griffe.Extension):  # type: ignore[misc]
    """What griffe calls for each object that it has read."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj.docstring.value)

"""mkdocs calls these while it builds the documentation (mkdocs.yml).

Pages of integrations are found, and links of pages that lie elsewhere in the repository are made to fit.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def title(page: Path) -> str:
    """The first heading of a page."""
    found = re.search(r"^# (.+)$", page.read_text(), re.MULTILINE)
    return found.group(1) if found else page.stem


def listed(nav: Any) -> set[str]:
    """The pages that a part of the navigation names."""
    if isinstance(nav, str):
        return {nav}
    parts = nav.values() if isinstance(nav, dict) else nav
    return {page for part in parts for page in listed(part)}


def on_config(config: Any) -> Any:
    docs = Path(config["docs_dir"])
    known = listed(config["nav"])
    for section in config["nav"]:
        folder = {"Integrations": "integrations", "Guides": "."}.get(next(iter(section)))
        if folder is None:
            continue
        pages = [path for path in sorted((docs / folder).glob("*.md")) if str(path.relative_to(docs)) not in known]
        pages.sort(key=lambda path: path.stem != "index")
        next(iter(section.values())).extend({title(path): str(path.relative_to(docs))} for path in pages)
    config["nav"] = [section for section in config["nav"] if next(iter(section.values())) != []]
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Links into the repository: from `docs/x.md` to the page, from other files to their name alone."""
    names = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
    up = "../" * page.file.src_uri.count("/")

    def replaced(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        if "://" in target or target == "":
            return match.group()
        source = Path(config["docs_dir"]) / page.file.src_uri
        if page.file.src_uri in names.values():  # a file of the repository's root, which the page quotes
            source = ROOT / page.file.src_uri
        there = (source.parent / target).resolve()
        if there.is_relative_to(ROOT / "docs"):
            return f"[{text}]({up}{there.relative_to(ROOT / 'docs')}{anchor})"
        if there.parent == ROOT and there.name in names:
            return f"[{text}]({up}{names[there.name]}{anchor})"
        return text if there.exists() else match.group()  # a link that leads nowhere is mkdocs' to report

    for name, own in names.items():
        if page.file.src_uri == own:
            markdown = (ROOT / name).read_text()
    return re.sub(r"\[([^\]]+)\]\(([^)#\s]*)(#[^)\s]*)?\)", lambda m: replaced(Filled(m)), markdown)


class Filled:
    """A match whose missing groups are empty."""

    def __init__(self, match: re.Match[str]) -> None:
        self.match = match

    def groups(self) -> tuple[str, ...]:
        return tuple(group or "" for group in self.match.groups())

    def group(self) -> str:
        return self.match.group()

"""mkdocs calls these while it builds the documentation (mkdocs.yml).

Pages of integrations are found, and what reads well on a forge is made to fit: links, and lists in lists.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]*)(#[^)\s]*)?\)")


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
        pages = [
            path for path in sorted((docs / folder).glob("*.md")) if str(path.relative_to(docs)) not in known
        ]
        pages.sort(key=lambda path: path.stem != "index")
        next(iter(section.values())).extend({title(path): str(path.relative_to(docs))} for path in pages)
    config["nav"] = [section for section in config["nav"] if next(iter(section.values())) != []]
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Links into the repository: from `docs/x.md` to the page, from other files to their name alone."""
    names = {
        "CONTRIBUTING.md": "contributing.md",
        "CHANGELOG.md": "changelog.md",
        "SECURITY.md": "security.md",
    }
    up = "../" * page.file.src_uri.count("/")

    def replaced(match: re.Match[str]) -> str:
        text, target, anchor = match.groups(default="")
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
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    for number in range(0, len(parts), 2):  # what is not fenced
        # a list in a list is indented by 4 for Python's Markdown, by 2 for others
        parts[number] = re.sub(r"^  - ", "    - ", parts[number], flags=re.MULTILINE)
        parts[number] = LINK.sub(replaced, parts[number])
    return "".join(parts)

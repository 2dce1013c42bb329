"""The documentation as a site: pages are found, links fit, and plots show the recorded results."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "tools/docs_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_of_integrations_and_new_guides_are_found(hooks: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "integrations").mkdir()
    for name, heading in (("b", "CleanRL"), ("index", "Overview"), ("a", "Metta")):
        (tmp_path / "integrations" / f"{name}.md").write_text(f"# {heading}\n")
    for name in ("loop", "cuda"):
        (tmp_path / f"{name}.md").write_text(f"# The {name}\n")
    nav: list[dict[str, Any]] = [{"Guides": [{"The loop": "loop.md"}]}, {"Integrations": []}]
    assert hooks.on_config({"docs_dir": str(tmp_path), "nav": nav})["nav"] == [
        {"Guides": [{"The loop": "loop.md"}, {"The cuda": "cuda.md"}]},
        {
            "Integrations": [
                {"Overview": "integrations/index.md"},
                {"Metta": "integrations/a.md"},
                {"CleanRL": "integrations/b.md"},
            ]
        },
    ]
    assert (
        hooks.on_config({"docs_dir": str(tmp_path / "integrations"), "nav": [{"Integrations": []}]})["nav"]
        == []
    )


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("changelog.md", None, "](trainer.md)"),
        ("changelog.md", None, "\n    - estimators"),
        ("concepts/ends.md", "[x](../loop.md#truncation)", "[x](../loop.md#truncation)"),
        ("recurrent.md", "[examples/recall.py](../examples/recall.py)", "examples/recall.py"),
        ("loop.md", "[how](../CONTRIBUTING.md#style)", "[how](contributing.md#style)"),
        ("loop.md", "[gone](../no_such_file.md)", "[gone](../no_such_file.md)"),
        ("loop.md", "[far](https://example.org/a.md)", "[far](https://example.org/a.md)"),
        ("loop.md", "```\n  - a list of YAML\n```\n", "```\n  - a list of YAML\n```\n"),
    ],
)
def test_links_and_lists_fit_the_site(hooks: ModuleType, page: str, text: str | None, expected: str) -> None:
    markdown = text or "replaced by the file at the root"
    here = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    got = hooks.on_page_markdown(markdown, page=here, config={"docs_dir": str(ROOT / "docs")}, files=None)
    assert expected in got if text is None else got == expected


def test_every_page_is_in_the_navigation_or_found() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().split("\nnav:")[1].split("\ntheme:")[0]
    named = set(re.findall(r"(\S+\.md)$", navigation, re.MULTILINE))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert named <= pages
    assert {page for page in pages - named if "/" in page and not page.startswith("integrations/")} == set()


def test_the_plots_show_the_recorded_results() -> None:
    """After new results: python tools/draw_results.py."""
    runs = json.loads((ROOT / "benchmarks/results/advantages.json").read_text())["runs"]
    picture = (ROOT / "docs/images/advantages.svg").read_text()
    titles = {"puff_advantage 4096x128 batch-major", "gae 4096x128 batch-major", "gae 4096x128 time-major"}
    shown = [
        contestant
        for run in runs
        for case in run["cases"]
        for contestant in case["contestants"]
        if run["threads"] == 1 and case["title"] in titles and contestant["kind"] != "floor"
    ]
    assert len(shown) > 12
    assert [c["name"] for c in shown if f">{c['to_floor']:.1f}x<" not in picture] == []
    loops = (ROOT / "docs/images/loops.svg").read_text()
    races = json.loads((ROOT / "benchmarks/results/loops.json").read_text())["races"]
    titles = [line for race in races for line in textwrap.wrap(race["job"]["title"], 36)]
    assert [line for line in titles if line not in loops] == []


def test_the_table_of_ops_shows_the_recorded_results() -> None:
    """After new results: python tools/op_figures.py."""
    command = [sys.executable, str(ROOT / "tools/op_figures.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0


def test_pictures_of_pages_exist() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / target).exists(), (page, target)

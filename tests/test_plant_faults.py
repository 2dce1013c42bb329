"""The list of tools/plant_faults.py fits the sources, and the runner tells a fault that nobody notices."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import plant_faults  # noqa: E402
from faults import FAULTS, Edit, Fault  # noqa: E402


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_planted_and_what_must_notice_it_is_there(fault: Fault) -> None:
    assert (ROOT / fault.edit.path).read_text().count(fault.edit.old) == 1
    assert fault.edit.old != fault.edit.new
    for word in fault.command:
        path, _, name = word.partition("::")
        if path.startswith(("tests/", "tools/")):
            assert (ROOT / path).exists(), path
            assert not name or f"def {name}(" in (ROOT / path).read_text(), word
    re.compile(fault.told)


def test_names_are_told_apart() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_the_documentation_has_them_all() -> None:
    text = (ROOT / "docs/robustness.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (.+?) \|", text.split("## Planted faults")[1], re.MULTILINE)[2:]
    assert rows == [(fault.name, fault.broken) for fault in FAULTS]


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("pass", "NOT NOTICED"),
        ("raise SystemExit('another')", "FAILED OTHERWISE"),
        ("raise SystemExit('the planted')", "noticed in 0 s: the planted"),
    ],
)
def test_what_came_of_a_fault(
    program: str, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "thing.py").write_text("right = True\n")
    monkeypatch.setattr(plant_faults, "TREE", tree)
    command = ("PYTHON", "-c", f"assert 'False' in open('thing.py').read()\n{program}")
    fault = Fault("x", "", Edit("thing.py", "True", "False"), command, "the planted")
    assert plant_faults.try_one(fault).startswith(outcome)
    assert (tree / "thing.py").read_text() == "right = True\n"

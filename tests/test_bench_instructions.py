"""tools/compare_instructions.py: Callgrind's dumps, and the comparison with the record."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hotloop.bench.estimators import ESTIMATORS

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "tools/compare_instructions.py"

pytestmark = pytest.mark.skipif(not TOOL.exists(), reason="an installed package carries no tools")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_instructions", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dump(name: str, part: str, total: int) -> str:
    return (
        f"version: 1\ncreator: callgrind\ndesc: Trigger: Client Request: {name}|{part}\n\nevents: Ir\n"
        f"summary: {total}\n\nfn=(1) f\n0 12\n\ntotals: {total}\n"
    )


def record(**counts: int) -> dict[str, Any]:
    return {"circumstances": {"python": "3.11.7", "torch": "2.13.0"}, "instructions": counts}


def test_a_count_is_the_difference_of_two_loops(tool: ModuleType) -> None:
    dumps = [
        "desc: Trigger: Program termination\ntotals: 5\n",
        dump("gae 8x8", "once", 1000 + 20 * 700),
        dump("gae 8x8", "twice", 1000 + 40 * 700),
    ]
    assert tool.counts(dumps) == {"gae 8x8": 700}


def test_incomplete_dumps(tool: ModuleType) -> None:
    with pytest.raises(tool.MeasureError, match="gae"):
        tool.counts([dump("gae", "once", 5)])
    with pytest.raises(tool.MeasureError, match="there are none"):
        tool.counts([])


@pytest.mark.parametrize(
    ("now", "fine", "said"),
    [
        (record(a=103, b=200), True, "+3.00 %"),
        (record(a=104, b=200), False, "WORSE"),
        (record(a=50, b=200), True, "-50.00 %"),
        (record(a=100), False, "GONE"),
        (record(a=100, b=200, c=5), True, "new"),
    ],
)
def test_comparing(tool: ModuleType, now: dict[str, Any], fine: bool, said: str) -> None:
    lines, verdict = tool.compare(record(a=100, b=200), now, 3.0)
    assert verdict is fine
    assert said in "\n".join(lines)


def test_other_versions_are_named(tool: ModuleType) -> None:
    now = record(a=100)
    now["circumstances"]["torch"] = "2.14.0"
    lines, _ = tool.compare(record(a=100), now, 3.0)
    assert lines[0] == "note: torch was 2.13.0, is 2.14.0: differences may come from that"


def test_exit_codes(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(record(a=100)))
    new.write_text(json.dumps(record(a=110)))

    def run(*arguments: str) -> int:
        command = [sys.executable, str(TOOL), "compare", "--baseline", str(old), "--counts", *arguments]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert run(str(new)) == 1
    assert run(str(new), "--threshold", "10.5") == 0
    assert run(str(old)) == 0
    assert run(str(tmp_path / "missing.json")) == 2


def test_the_record_names_every_program() -> None:
    programs = ROOT / "benchmarks/instructions/programs.py"
    code = f"import sys; sys.path.insert(0, {str(programs.parent)!r}); import programs; "
    code += "print(*[name for name, call in programs.programs() if (call(), True)[1]], sep='\\n')"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    kept = json.loads((programs.parent / "counts.json").read_text())["instructions"]
    missing = [estimator.op for estimator in ESTIMATORS if not estimator.available]
    assert [name for name in kept if name.split()[0] not in missing] == names.splitlines()
    assert all(count > 1000 for count in kept.values())


@pytest.mark.skipif(
    shutil.which("cc") is None or not Path("/usr/include/valgrind/callgrind.h").exists(),
    reason="needs a C compiler and Valgrind's headers",
)
def test_outside_valgrind_the_marks_do_nothing(tmp_path: Path) -> None:
    library, programs = tmp_path / "marks.so", ROOT / "benchmarks/instructions"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, programs / "marks.c"], check=True)
    subprocess.run([sys.executable, programs / "programs.py", library], check=True, timeout=120)

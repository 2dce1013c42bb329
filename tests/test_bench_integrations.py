"""The tables of the integrations' figures."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:  # where pytest is not run as a module
    sys.path.append(str(ROOT))
tables: Any = importlib.import_module("benchmarks.integrations.tables")
command: Any = importlib.import_module("benchmarks.integrations.command")
race_module: Any = importlib.import_module("benchmarks.integrations.race")
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results" / "integrations.json"


def race(host: str, job: str, part: float, memory: str = "default") -> dict[str, Any]:
    summary = {
        "share": 0.05, "part": part, "whole": 1.0 + part / 100, "replaced": [part * 1e-3, 1e-3],
        "parts": {"storage": [part * 1e-3, 1e-3, part]},
    }  # fmt: skip
    return {"host": host, "job": job, "threads": 1, "memory": memory, "summary": summary}


def test_the_readme_shows_what_the_results_hold() -> None:
    text = README.read_text()
    assert tables.readme(text, json.loads(RESULTS.read_text())) == text


def test_later_files_replace_races_of_earlier_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = {"races": [race("rsl_rl", "64 agents", 2.0), race("rsl_rl", "1024 agents", 7.0)]}
    second = {"races": [race("rsl_rl", "64 agents", 3.0), race("rsl_rl", "64 agents", 9.0, memory="keep")]}
    paths = [tmp_path / "first.json", tmp_path / "second.json"]
    for path, report in zip(paths, (first, second), strict=True):
        path.write_text(json.dumps(report))
    readme = tmp_path / "README.md"
    readme.write_text("| [rsl_rl](docs/integrations/rsl_rl.md) | `install()` | 1 % | 1.0x | 1.00x |\nelse\n")
    both = tmp_path / "both.json"
    arguments = [*map(str, paths), "--merged", str(both), "--readme", str(readme)]
    assert tables.main(arguments) == 0
    assert readme.read_text() == (
        "| [rsl_rl](docs/integrations/rsl_rl.md) | `install()` | 5 % | 3.0 to 7.0x | 1.03 to 1.07x |\nelse\n"
    )
    shown = capsys.readouterr().out
    assert "| 64 agents | 3 | 1 | 3.0x | 5% |" in shown
    assert "| 1,024 agents | 7 | 1 | 7.0x | 5% |" in shown
    assert len(json.loads(both.read_text())["races"]) == 3


def test_small_and_large_jobs_of_metta_have_a_row_each() -> None:
    report = {"races": [race("metta", "oct, 64 agents", 4.0), race("metta", "head, 1024 agents", 30.0)]}
    text = (
        "| [Metta](docs/integrations/metta.md) (a double of it), 64 agents | `x` | 1 % | 1.0x | 1.00x |\n"
        "| the same, 1,024 agents | | 1 % | 1.0x | 1.00x |"
    )
    assert tables.readme(text, report) == (
        "| [Metta](docs/integrations/metta.md) (a double of it), 64 agents | `x` | 5 % | 4.0x | 1.04x |\n"
        "| the same, 1,024 agents | | 5 % | 30x | 1.30x |"
    )


def sample(**parts: float) -> dict[str, Any]:
    return {"seconds": 1.0, "parts": parts, "other_load": 0.0}


def test_a_floor_tells_how_much_could_be_gained() -> None:
    plain, ours = [sample(storage=0.06, losses=0.02)] * 3, [sample(storage=0.02, losses=0.01)] * 3
    found = race_module.summary(plain, ours, [sample(storage=0.005, losses=0.005), sample(storage=0.005)])
    assert (found["part"], found["floor"]) == (pytest.approx(0.08 / 0.03), pytest.approx(0.0075))
    assert found["at_most"] == pytest.approx(0.08 / 0.0075)
    assert found["floors"]["storage"] == [0.005, pytest.approx(12.0)]
    assert "floor" not in race_module.summary(plain, ours)


def test_tables_show_the_floor_and_the_readme_the_default() -> None:
    plain, ours, floor = [sample(a=0.06, b=0.02)], [sample(a=0.02, b=0.01)], [sample(a=0.005)]
    summary = race_module.summary(plain, ours, floor)
    first, second = race("pufferlib", "64 agents", 4.0), race("pufferlib", "64 agents, fused", 9.0)
    first["summary"] = summary
    shown = tables.page({"races": [first, second]}, "pufferlib")
    assert shown[0] == "| pufferlib | without | with | | of at most | of an iteration |"
    assert "| 64 agents | 80 | 30 | 2.7x | 16.0x | 8% |" in shown
    assert "| - a | 60 | 20 | 3.0x | 12.0x | |" in shown
    assert "| - b | 20 | 10 | 2.0x |  | |" in shown
    assert "| 64 agents, fused | 9 | 1 | 9.0x |  | 5% |" in shown
    assert {line.count("|") for line in shown} == {7}
    text = "| [PufferLib](docs/integrations/pufferlib.md) | `install()` | 1 % | 1.0x | 1.00x |"
    assert "2.7x" in tables.readme(text, {"races": [first, second]})


def test_jobs_can_be_chosen() -> None:
    assert command._parser().parse_args([]).jobs == ""
    assert command._parser().parse_args(["--jobs", "64 agents"]).jobs == "64 agents"

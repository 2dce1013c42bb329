"""Each wheel on its own Python, where there may be no torch: the native module is imported and computes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from fresh_environment import FreshEnvironment

from build_wheels import MINORS, find_pythons
from wheel_contents import version

PYTHONS = find_pythons() if "HOTLOOP_WHEELS" in os.environ else {}


def test_there_is_a_wheel_for_every_python_here(wheels: dict[str, Path]) -> None:
    assert PYTHONS
    assert sorted(wheels) == sorted(f"3{minor}" for minor in PYTHONS)


@pytest.mark.parametrize("minor", MINORS)
def test_the_native_module_computes(minor: int, wheels: dict[str, Path], tmp_path: Path) -> None:
    if minor not in PYTHONS:
        pytest.skip(f"Python 3.{minor} is not on this machine")
    environment = FreshEnvironment(PYTHONS[minor], tmp_path)
    environment.install("--no-deps", wheels[f"3{minor}"])
    shutil.copy(Path(__file__).with_name("standin_program.py"), environment.elsewhere)
    told = environment.run(environment.python, "standin_program.py").split()
    assert told[0] == version()
    assert told[1].startswith(f"3.{minor}.")
    assert told[2] == "baseline"


def test_an_import_without_torch_says_what_is_missing(wheels: dict[str, Path], tmp_path: Path) -> None:
    minor = max(PYTHONS)
    environment = FreshEnvironment(PYTHONS[minor], tmp_path)
    environment.install("--no-deps", wheels[f"3{minor}"])
    program = (
        "import hotloop\ntry: from hotloop import _core\n"
        "except ImportError as error: print(error.__cause__ or error)\n"
        "try: import hotloop.ops\nexcept ImportError as error: print(error)"
    )
    assert environment.evaluate(program).splitlines() == ["No module named 'torch'"] * 2

"""Tests of the wheels that `make wheels` built, each installed into an environment of its own.

`make test-wheels` runs them. They are marked `packaging` and skip, with that reason, where HOTLOOP_WHEELS
does not name the folder of the wheels.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tools"))  # what a wheel must be: tools/wheel_contents.py


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == HERE:
            item.add_marker("packaging")
            if "HOTLOOP_WHEELS" not in os.environ:
                item.add_marker(pytest.mark.skip(reason="needs wheels: make wheels test-wheels"))


@pytest.fixture(scope="session")
def wheels() -> dict[str, Path]:
    """Wheels by Python, such as "311"."""
    found = {path.name.split("-")[2].removeprefix("cp"): path for path in wheel_folder().glob("*.whl")}
    assert found, f"no wheel in {wheel_folder()}: make wheels"
    return found


def wheel_folder() -> Path:
    return Path(os.environ["HOTLOOP_WHEELS"]).resolve()

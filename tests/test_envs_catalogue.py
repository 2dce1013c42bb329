"""`hotloop envs`: what is installed, what installs the rest, and the ids of each library."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import get_args

import pytest

from hotloop.__main__ import main
from hotloop.envs.catalogue import BACKENDS, Backend, rows
from hotloop.trainer.config import EnvBackend

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def backend(name: str) -> Backend:
    return next(each for each in BACKENDS if each.name == name)


def test_lists_every_backend_that_the_trainer_knows() -> None:
    assert tuple(each.name for each in BACKENDS) == get_args(EnvBackend)


def test_extras_are_those_of_the_package() -> None:
    extras = re.findall(r"^([a-z]+) = \[", PYPROJECT.read_text(), re.MULTILINE)
    for each in BACKENDS:
        name = re.fullmatch(r"hotloop\[([a-z]+)\]", each.extra)
        assert name is not None
        assert name[1] in extras


def test_says_what_is_installed_and_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "envpool" else object())
    assert backend("envpool").missing == ["envpool"]
    lines = {row[0]: row for row in rows()}
    assert lines["envpool"][1:3] == ("missing: envpool", "hotloop[envpool]")
    assert re.fullmatch(r"\d+\.\d+.*", lines["gymnasium"][1])
    assert main(["envs"]) == 0
    shown = capsys.readouterr().out
    for each in BACKENDS:
        assert each.name in shown
        assert each.extra in shown  # not swallowed as markup
    assert "missing: envpool" in shown


def test_without_rich_the_table_is_plain(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main(["envs"]) == 0
    table = capsys.readouterr().out.splitlines()[: 1 + len(BACKENDS)]
    assert table[0].split()[:2] == ["backend", "version"]
    column = table[0].index("pip install")
    assert all(line[column:].startswith("hotloop[") for line in table[1:])


def test_lists_the_ids_of_a_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs", "--backend", "gymnasium"]) == 0
    ids = capsys.readouterr().out.splitlines()
    assert {"CartPole-v1", "Pendulum-v1"} <= set(ids)
    assert ids == sorted(ids)


def test_a_backend_that_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["envs", "--backend", "atari"]) == 1
    said = capsys.readouterr().err
    assert "atari: not installed: ale_py, cv2, gymnasium" in said
    assert "pip install 'hotloop[atari]'" in said


def test_a_backend_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["envs", "--backend", "nothing"])
    assert caught.value.code == 2
    assert "invalid choice: 'nothing'" in capsys.readouterr().err


@pytest.mark.environments
@pytest.mark.parametrize("name", ["envpool", "pufferlib", "mettagrid", "atari"])
def test_examples_are_among_the_ids(name: str) -> None:
    wanted = backend(name)
    if wanted.missing:
        pytest.skip(f"{', '.join(wanted.missing)} is not installed ({wanted.extra})")
    assert set(wanted.examples) <= set(wanted.ids())
    assert wanted.version is not None

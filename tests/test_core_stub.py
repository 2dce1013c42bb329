"""`_core.pyi` is written by hand; this keeps it true."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
import torch

import hotloop
from hotloop import _core, ops  # noqa: F401  (importing ops registers the twins)

STUB = ast.parse((Path(hotloop.__file__).parent / "_core.pyi").read_text())
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}


def public(names: list[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def test_the_stub_names_exactly_what_the_module_has() -> None:
    assert public(dir(_core)) == set(FUNCTIONS) | set(CLASSES)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_classes_have_the_members_of_the_stub(name: str) -> None:
    members = {node.name for node in CLASSES[name].body if isinstance(node, ast.FunctionDef)}
    assert public(dir(getattr(_core, name))) == members - {"__init__"}


@pytest.mark.parametrize("name", sorted(n for n in FUNCTIONS if hasattr(torch.ops.hotloop, n)))
def test_ops_take_the_number_of_arguments_of_the_stub(name: str) -> None:
    count = len(FUNCTIONS[name].args.posonlyargs)
    assert count > 0
    for wrong in (count - 1, count + 1):
        with pytest.raises(TypeError, match=f"expected {count} positional arguments, got {wrong}"):
            getattr(_core, name)(*[None] * wrong)
    with pytest.raises(TypeError, match="must be a"):
        getattr(_core, name)(*[None] * count)


@pytest.mark.parametrize("name", sorted(n for n in FUNCTIONS if FUNCTIONS[n].args.posonlyargs == []))
def test_other_functions_have_the_parameters_of_the_stub(name: str) -> None:
    parameters = [argument.arg for argument in FUNCTIONS[name].args.args]
    signature = (getattr(_core, name).__doc__ or "").splitlines()[0]
    listed = inspect.cleandoc(signature).split("(", 1)[1].split(")")[0]
    assert [part.split(":")[0].strip() for part in listed.split(",") if part.strip()] == parameters

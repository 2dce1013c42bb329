"""What tests beside hosts compare: results by name, and every attribute of a host's modules."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch

Attributes = dict[tuple[str, str], Any]


def assert_same(ours: Mapping[str, Any], theirs: Mapping[str, Any], tolerance: float = 0.0) -> None:
    """Tensors, arrays or numbers; equal to the last bit where nothing is tolerated."""
    assert ours.keys() == theirs.keys()
    for name in theirs:
        each, other = torch.as_tensor(ours[name]), torch.as_tensor(theirs[name])
        torch.testing.assert_close(
            each, other, rtol=tolerance, atol=tolerance, equal_nan=True,
            msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip


def attributes(package: str) -> Attributes:
    """Every attribute of the loaded modules of a package, and of their classes."""
    found: Attributes = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == package and isinstance(module, ModuleType):
            for key, value in list(vars(module).items()):
                found[name, key] = value
                if isinstance(value, type) and value.__module__ == name:
                    found |= {(f"{name}.{key}", each): held for each, held in list(vars(value).items())}
    return found


def changed(before: Attributes, after: Attributes) -> set[tuple[str, str]]:
    """Attributes that are other objects now, or gone."""
    return {at for at, value in before.items() if after.get(at) is not value}

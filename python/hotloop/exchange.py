"""Attributes of other packages that are exchanged for a while, and put back as they were."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

_ABSENT = object()


@dataclass(frozen=True)
class _Exchanged:
    owner: type | ModuleType
    name: str
    original: object  # as it lies in the owner's own namespace: a staticmethod stays one; _ABSENT: inherited


class Exchange:
    """What is exchanged at one time, to be put back together.

    Args:
        where: who does it, for messages.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._made: list[_Exchanged] = []
        self._functions: list[tuple[object, object, str]] = []

    def replace(self, owner: type | ModuleType, name: str, new: object) -> None:
        """Exchanges `owner.name`. AttributeError where the owner has no such attribute to exchange."""
        if not hasattr(owner, name):
            raise AttributeError(f"{self._where}: {owner.__name__} has no {name} to exchange")
        self._made.append(_Exchanged(owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, new)

    def replace_everywhere(self, module: ModuleType, name: str, new: object) -> None:
        """Exchanges `module.name` and whatever modules of the same top package imported it under any name,
        `from module import name`. `remove()` also reaches modules that imported ours in the meantime."""
        original = getattr(module, name)
        package = module.__name__.partition(".")[0]
        self.replace(module, name, new)
        for owner, bound in _bindings(package, original):
            self.replace(owner, bound, new)
        self._functions.append((original, new, package))

    def remove(self) -> None:
        """Puts every attribute back, last exchanged first. Does nothing where nothing is exchanged."""
        while self._made:
            made = self._made.pop()
            if made.original is _ABSENT:
                delattr(made.owner, made.name)
            else:
                setattr(made.owner, made.name, made.original)
        while self._functions:
            original, new, package = self._functions.pop()
            for owner, bound in _bindings(package, new):
                setattr(owner, bound, original)

    @property
    def names(self) -> list[str]:
        """What is exchanged now, as `module.Class.attribute`."""
        return [f"{_full_name(made.owner)}.{made.name}" for made in self._made]


def _bindings(package: str, value: object) -> Iterator[tuple[ModuleType, str]]:
    """Names in loaded modules of a package that are bound to this very object."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and name.partition(".")[0] == package:
            yield from [(module, bound) for bound, held in list(vars(module).items()) if held is value]


def _full_name(owner: type | ModuleType) -> str:
    return owner.__name__ if isinstance(owner, ModuleType) else f"{owner.__module__}.{owner.__qualname__}"

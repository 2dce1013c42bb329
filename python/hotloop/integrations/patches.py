"""Attributes of a host that are exchanged, and put back as they were."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from hotloop.integrations.hosts import HOSTS

_ABSENT = object()
_INSTALLED: dict[str, Patches] = {}


@dataclass(frozen=True)
class _Patch:
    owner: type | ModuleType
    name: str
    original: object  # as it lies in the owner's own namespace: a staticmethod stays one; _ABSENT: inherited
    new: object


class Patches:
    """What one integration has exchanged. At most one set of patches for a host is installed at a time.

    Args:
        host: its name in `hosts.HOSTS`.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self._made: list[_Patch] = []
        self._functions: list[tuple[object, object, str]] = []

    def replace(self, owner: type | ModuleType, name: str, new: object) -> None:
        """Exchanges `owner.name`. AttributeError where the owner has no such attribute to exchange."""
        if not hasattr(owner, name):
            raise AttributeError(
                f"hotloop.integrations.{self.host}: {owner.__name__} has no {name} to exchange"
            )
        self._made.append(_Patch(owner, name, vars(owner).get(name, _ABSENT), new))
        setattr(owner, name, new)
        _INSTALLED[self.host] = self

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
        """Puts every attribute back, last exchanged first. Does nothing where nothing is installed."""
        while self._made:
            patch = self._made.pop()
            if patch.original is _ABSENT:
                delattr(patch.owner, patch.name)
            else:
                setattr(patch.owner, patch.name, patch.original)
        while self._functions:
            original, new, package = self._functions.pop()
            for owner, bound in _bindings(package, new):
                setattr(owner, bound, original)
        if _INSTALLED.get(self.host) is self:
            del _INSTALLED[self.host]

    @property
    def names(self) -> list[str]:
        """What is exchanged now, as `module.Class.attribute`."""
        return [f"{_full_name(patch.owner)}.{patch.name}" for patch in self._made]


def installed(host: str) -> Patches | None:
    """The patches that are installed in a host now."""
    return _INSTALLED.get(host)


def status() -> list[dict[str, Any]]:
    """A dict for each host: `name`, `installed` (bool), `version`, `tested` (versions), `replaces`, `use`,
    and `patched`: what is exchanged in this process now."""
    return [
        {
            "name": host.name,
            "installed": host.installed,
            "version": host.version,
            "tested": list(host.tested),
            "replaces": host.replaces,
            "use": host.use,
            "patched": _INSTALLED[host.name].names if host.name in _INSTALLED else [],
        }
        for host in HOSTS
    ]


def _bindings(package: str, value: object) -> Iterator[tuple[ModuleType, str]]:
    """Names in loaded modules of a package that are bound to this very object."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and name.partition(".")[0] == package:
            yield from [(module, bound) for bound, held in list(vars(module).items()) if held is value]


def _full_name(owner: type | ModuleType) -> str:
    return owner.__name__ if isinstance(owner, ModuleType) else f"{owner.__module__}.{owner.__qualname__}"

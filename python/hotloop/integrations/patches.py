"""What integrations have exchanged in their hosts."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from hotloop.exchange import Exchange
from hotloop.integrations.hosts import HOSTS

_INSTALLED: dict[str, Patches] = {}


class Patches(Exchange):
    """What one integration has exchanged. At most one set of patches for a host is installed at a time.

    Args:
        host: its name in `hosts.HOSTS`.
    """

    def __init__(self, host: str) -> None:
        super().__init__(f"hotloop.integrations.{host}")
        self.host = host

    def replace(self, owner: type | ModuleType, name: str, new: object) -> None:
        """As `Exchange.replace`; from then on `status()` tells it."""
        super().replace(owner, name, new)
        _INSTALLED[self.host] = self

    def remove(self) -> None:
        """As `Exchange.remove`."""
        super().remove()
        if _INSTALLED.get(self.host) is self:
            del _INSTALLED[self.host]


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

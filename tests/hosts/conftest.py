"""What the tests beside real hosts share. They are marked `peers`, and `make test-peers` runs each file in an
environment of its host's own; elsewhere a missing host skips its file, with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hotloop.integrations import HOSTS, find_host


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker("peers")


@pytest.fixture(autouse=True)
def host(request: pytest.FixtureRequest) -> None:
    """Skips where the host of this file (`test_<host>.py`, `test_<host>_<part>.py`), or its tested version,
    is missing: but where HOTLOOP_HOST names it, the host must be there."""
    stem = request.path.stem.removeprefix("test_")
    name = next(host.name for host in HOSTS if f"{stem}_".startswith(f"{host.name}_"))
    found = find_host(name)
    if os.environ.get("HOTLOOP_HOST") != name and (found.module is not None):
        if not found.installed:
            pytest.skip(f"{found.distribution or found.module} is missing: make test-peers")
        if found.distribution is not None and found.version not in found.tested:
            pytest.skip(f"{found.distribution} {found.version} is not one of {found.tested}: make test-peers")


@pytest.fixture
def quiet_pufferl(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PuffeRL without its dashboard, on one thread; afterwards its own code is back."""
    from pufferlib import pufferl

    from hotloop.integrations import pufferlib

    monkeypatch.setattr(pufferl.PuffeRL, "print_dashboard", lambda *_, **__: None)
    torch.set_num_threads(1)
    yield
    pufferlib.uninstall()
    torch.set_autocast_enabled("cpu", False)  # PuffeRL never leaves it

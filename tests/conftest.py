from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import hotloop  # noqa: F401  (torch first, then the native module)
from hotloop import _core


@pytest.fixture(params=_core.isas_supported())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test once for each instruction set that this processor has."""
    before = _core.isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(before)


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts torch's number of threads back after a test that changes it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)

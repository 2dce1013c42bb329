from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hotloop.bench.machine import usable_cores


@pytest.fixture(params=[1, 2], ids=lambda n: f"threads{n}")
def threads(request: pytest.FixtureRequest) -> int:
    """One-thread figures are the solid ones; two threads show that the work divides."""
    number: int = request.param
    if number > usable_cores():
        pytest.skip(f"{number} threads need as many cores, this process may use {usable_cores()}")
    return number


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For what is timed in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

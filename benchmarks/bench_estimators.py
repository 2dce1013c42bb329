"""The estimators beside the time to copy what they read and write once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from hotloop import ops
from hotloop.ops import reference
from interleave import Timing, interleaved, report, save

SHAPES = [(64, 64), (1024, 64), (4096, 128), (16384, 64), (64, 2048)]
GROUPS: dict[str, dict[str, Timing]] = {}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_estimators(benchmark: BenchmarkFixture, shape: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(0)
    rewards, values, q_values = (torch.randn(shape, generator=g) for _ in range(3))
    ratio = 2 * torch.rand(shape, generator=g)
    flags = torch.rand(shape, generator=g) < 0.05
    dones = flags.float()
    last = torch.randn(shape[0], generator=g)
    out, more = torch.empty(shape), torch.empty(shape)
    elements = shape[0] * shape[1]
    source, target = torch.randn(2 * elements), torch.empty(2 * elements)
    contestants: dict[str, Callable[[], object]] = {
        "copy of two arrays (four moved)": lambda: target.copy_(source),
        "reverse_scan": lambda: ops.reverse_scan(ratio, rewards, last, out=out),
        "delta_lambda": lambda: ops.delta_lambda(values, rewards, dones, 0.99, 0.95, out=out),
        "discounted_return": lambda: ops.discounted_return(
            rewards, flags, last_values=last, gamma=0.99, out=out
        ),
        "td_lambda": lambda: ops.td_lambda(
            rewards, values, flags, last_values=last, gamma=0.99, gae_lambda=0.95, out=out
        ),
        "vtrace": lambda: ops.vtrace(
            rewards, values, flags, importance=ratio, last_values=last, gamma=0.99, out=(out, more)
        ),
        "retrace": lambda: ops.retrace(
            rewards, q_values, values, flags, importance=ratio, last_values=last, gamma=0.99, out=out
        ),
    }
    timings = interleaved(contestants, rounds=max(20, min(1000, 30_000_000 // elements)))
    group = f"{shape[0]}x{shape[1]}"
    GROUPS[group] = timings
    print("\n" + report(group, timings, "copy of two arrays (four moved)"))
    expected = reference.retrace(
        rewards, q_values, values, flags, importance=ratio, last_values=last, gamma=0.99
    )
    assert torch.equal(out, expected)
    benchmark.pedantic(contestants["vtrace"], rounds=20)
    if len(GROUPS) == len(SHAPES):
        print(f"written to {save('estimators', GROUPS)}")

"""`puff_advantage` beside the time to copy its bytes: four inputs read and one output written once."""

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


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_puff_advantage(benchmark: BenchmarkFixture, shape: tuple[int, int], threads: int) -> None:
    g = torch.Generator().manual_seed(0)
    values, rewards = (torch.randn(shape, generator=g) for _ in range(2))
    ratio = 2 * torch.rand(shape, generator=g)
    dones = (torch.rand(shape, generator=g) < 0.05).float()
    out = torch.empty(shape)
    # The op reads four arrays and writes one; a copy of 5/2 of an array moves the same bytes.
    elements = shape[0] * shape[1] * 5 // 2
    source, target = torch.randn(elements), torch.empty(elements)
    contestants: dict[str, Callable[[], object]] = {
        "copy of the same bytes": lambda: target.copy_(source),
        "hotloop.ops.puff_advantage": lambda: ops.puff_advantage(
            values, rewards, dones, ratio, 0.99, 0.95, out=out
        ),
    }
    if threads == 1 and shape[1] <= 128:
        contestants["torch loop over T"] = lambda: reference.puff_advantage(
            values, rewards, dones, ratio, 0.99, 0.95
        )
    rounds = max(20, min(2000, 60_000_000 // elements))
    if "torch loop over T" in contestants:
        rounds = min(rounds, 40)
    timings = interleaved(contestants, rounds=rounds)
    group = f"{shape[0]}x{shape[1]}, {threads} thread(s)"
    GROUPS[group] = timings
    print("\n" + report(group, timings, "copy of the same bytes"))
    assert torch.equal(out, reference.puff_advantage(values, rewards, dones, ratio, 0.99, 0.95))
    benchmark.pedantic(contestants["hotloop.ops.puff_advantage"], rounds=20)
    if len(GROUPS) == 2 * len(SHAPES):
        print(f"written to {save('puff_advantage', GROUPS)}")

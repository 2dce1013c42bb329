"""What a call costs before any work is done: the smallest op beside torch's own smallest op.

At 64 agents a rollout step is a dozen such calls, and they are half of its time.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from hotloop import ops
from hotloop.ops import reference
from interleave import interleaved, report, save


@pytest.mark.usefixtures("one_thread")
def test_puff_advantage_8x8(benchmark: BenchmarkFixture) -> None:
    g = torch.Generator().manual_seed(0)
    values, rewards, ratio = (torch.rand(8, 8, generator=g) for _ in range(3))
    dones = (torch.rand(8, 8, generator=g) < 0.1).float()
    flags = dones.bool()
    out, a, b, c = (torch.empty(8, 8) for _ in range(4))
    a.copy_(values)
    b.copy_(rewards)
    positional = (values, rewards, dones, ratio, 0.99, 0.95, 1.0, 1.0, None, None, None)
    op = torch.ops.hotloop.puff_advantage.out
    contestants = {
        "torch.add(a, b, out=c)": lambda: torch.add(a, b, out=c),
        "hotloop.ops.puff_advantage(..., out=out)": lambda: ops.puff_advantage(
            values, rewards, dones, ratio, 0.99, 0.95, out=out
        ),
        "the same with bool dones": lambda: ops.puff_advantage(
            values, rewards, flags, ratio, 0.99, 0.95, out=out
        ),
        "torch.ops.hotloop.puff_advantage.out": lambda: op(*positional, out=out),
    }
    timings = interleaved(contestants, rounds=300, calls=200)
    print("\n" + report("call overhead, [8, 8] float32", timings, "torch.add(a, b, out=c)"))
    path = save("call_overhead", {"8x8": timings})
    print(f"written to {path}")
    assert torch.equal(out, reference.puff_advantage(*positional[:8]))
    benchmark(contestants["hotloop.ops.puff_advantage(..., out=out)"])

"""`gae` beside the time to copy its bytes: three inputs read and two outputs written once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from hotloop import ops
from interleave import Timing, interleaved, report, save

SHAPES = [(64, 64), (1024, 64), (4096, 128), (16384, 64), (64, 2048)]
GROUPS: dict[str, dict[str, Timing]] = {}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_gae(benchmark: BenchmarkFixture, shape: tuple[int, int], threads: int) -> None:
    g = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(shape, generator=g) for _ in range(2))
    flags = torch.rand(shape, generator=g) < 0.05
    floats = flags.float()
    last_values = torch.randn(shape[0], generator=g)
    turned = [x.t().contiguous() for x in (rewards, values, flags)]
    out = torch.empty(shape), torch.empty(shape)
    out_turned = torch.empty(shape[::-1]), torch.empty(shape[::-1])
    elements = shape[0] * shape[1] * 5 // 2
    source, target = torch.randn(elements), torch.empty(elements)
    summary = ops.AdvantageSummary.tensor()

    def time_major() -> object:
        return ops.gae(
            *turned, last_values=last_values, gamma=0.99, gae_lambda=0.95, time_major=True, out=out_turned
        )

    def batch_major(terminated: torch.Tensor, summary: torch.Tensor | None = None) -> object:
        return ops.gae(
            rewards, values, terminated, last_values=last_values, gamma=0.99, gae_lambda=0.95,
            summary=summary, out=out,
        )  # fmt: skip

    contestants: dict[str, Callable[[], object]] = {
        "copy of the same bytes": lambda: target.copy_(source),
        "float flags": lambda: batch_major(floats),
        "bool flags": lambda: batch_major(flags),
        "bool flags, time-major": time_major,
        "bool flags, with summary": lambda: batch_major(flags, summary),
    }
    timings = interleaved(contestants, rounds=max(20, min(2000, 60_000_000 // elements)))
    group = f"{shape[0]}x{shape[1]}, {threads} thread(s)"
    GROUPS[group] = timings
    print("\n" + report(group, timings, "copy of the same bytes"))
    for turned_result, result in zip(out_turned, out, strict=True):
        assert torch.equal(turned_result.t(), result)
    benchmark.pedantic(contestants["bool flags"], rounds=20)
    if len(GROUPS) == 2 * len(SHAPES):
        print(f"written to {save('gae', GROUPS)}")

"""`tanh` beside torch's, into memory that is there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from hotloop import ops
from interleave import Timing, interleaved, report, save

SHAPES = [(64, 64), (2048, 64), (16384, 64)]  # rows of a step or minibatch, width of a layer
GROUPS: dict[str, dict[str, Timing]] = {}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_tanh(benchmark: BenchmarkFixture, shape: tuple[int, int], one_thread: None) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    out, plain, copied = torch.empty(3, *shape).unbind()

    def native() -> Tensor:
        return ops.tanh(x, out=out)

    contestants: dict[str, Callable[[], object]] = {
        "copy": lambda: copied.copy_(x),
        "hotloop.ops.tanh(out=)": native,
        "torch.tanh(out=)": lambda: torch.tanh(x, out=plain),
    }
    timings = interleaved(contestants, rounds=100)
    group = f"{shape[0]}x{shape[1]}, 1 thread"
    GROUPS[group] = timings
    print("\n" + report(group, timings, "copy"))
    torch.testing.assert_close(native(), torch.tanh(x))
    benchmark.pedantic(native, rounds=20)
    if len(GROUPS) == len(SHAPES):
        print(f"written to {save('tanh', GROUPS)}")

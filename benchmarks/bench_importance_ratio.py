"""`importance_ratio` beside torch's operations into memory that is there, and beside those that allocate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from hotloop import ops
from hotloop.losses import formulas
from interleave import Timing, interleaved, report, save

SHAPES = [(16, 128), (256, 64), (1024, 64)]
GROUPS: dict[str, dict[str, Timing]] = {}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_importance_ratio(benchmark: BenchmarkFixture, shape: tuple[int, int], one_thread: None) -> None:
    g = torch.Generator().manual_seed(0)
    old = torch.randn(shape, generator=g)
    new = old + 0.1 * torch.randn(shape, generator=g)
    valid = torch.rand(shape, generator=g) < 0.9
    one, out, plain = torch.ones(()), torch.empty(shape), torch.empty(shape)
    source, target = torch.randn(3, *shape), torch.empty(3, *shape)

    def native() -> Tensor:
        return ops.importance_ratio(new, old, valid, out=out)

    def into_memory() -> Tensor:
        torch.sub(new, old, out=plain)
        plain.clamp_(-10.0, 10.0).exp_()
        return torch.where(valid, plain, one, out=plain)

    contestants: dict[str, Callable[[], object]] = {
        "copy of what is read and written": lambda: target.copy_(source),
        "hotloop.ops.importance_ratio(out=)": native,
        "torch, into memory": into_memory,
        "torch": lambda: formulas.importance_ratio(new, old, valid),
    }
    timings = interleaved(contestants, rounds=100)
    group = f"{shape[0]}x{shape[1]}, 1 thread"
    GROUPS[group] = timings
    print("\n" + report(group, timings, "copy of what is read and written"))
    torch.testing.assert_close(native(), into_memory())
    benchmark.pedantic(native, rounds=20)
    if len(GROUPS) == len(SHAPES):
        print(f"written to {save('importance_ratio', GROUPS)}")

"""One optimizer step, hot and after a backward pass, beside torch's fused Adam and a copy of the bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn

from after_backward import after_backward, two_networks
from hotloop import optim
from interleave import Timing, interleaved, report, save

# two networks of 2 x 64 for CartPole, and single matrices
SIZES: dict[str, list[tuple[int, ...]]] = {
    "12 tensors, 9k numbers": [s for n in (2, 1) for s in ((64, 4), (64,), (64, 64), (64,), (n, 64), (n,))],
    "1M numbers": [(1000, 1000)],
    "10M numbers": [(1000, 1000)] * 10,
}
GROUPS: dict[str, dict[str, Timing]] = {}


def parameters_of(size: str) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SIZES[size]]
    for each in parameters:
        each.grad = torch.randn(each.shape, generator=generator)
    return parameters


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_adam(benchmark: BenchmarkFixture, size: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours, theirs = parameters_of(size), parameters_of(size)
        native = optim.Adam(ours, lr=1e-3)
        fused = torch.optim.Adam(theirs, lr=1e-3, fused=True)
        # what a step must move: four arrays read and three written, as a copy of three and a half
        source = torch.ones(7 * sum(each.numel() for each in ours) // 2)
        target = torch.empty_like(source)
        contestants: dict[str, Callable[[], object]] = {
            "copy of the bytes": lambda: target.copy_(source),
            "hotloop.optim.Adam": native.step,
            "torch fused Adam": fused.step,
        }
        timings = interleaved(contestants, rounds=200 if source.numel() < 10**6 else 20)
        group = f"{size}, hot, {threads} thread(s)"
        GROUPS[group] = timings
        print("\n" + report(group, timings, "copy of the bytes"))
        torch.testing.assert_close(list(ours), list(theirs), rtol=1e-4, atol=1e-5)
        benchmark.pedantic(native.step, rounds=20)
    finally:
        torch.set_num_threads(before)
    print(f"written to {save('adam', GROUPS)}")


def test_adam_after_a_backward_pass(benchmark: BenchmarkFixture, one_thread: None) -> None:
    model = two_networks()
    native = optim.Adam(model.parameters(), lr=1e-4)
    fused = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    source = torch.ones(7 * sum(each.numel() for each in model.parameters()) // 2)
    target = torch.empty_like(source)
    timings = after_backward(
        model,
        {
            "copy of the bytes": lambda: target.copy_(source),
            "hotloop.optim.Adam": native.step,
            "torch fused Adam": fused.step,
        },
    )
    group = "12 tensors, 9k numbers, after a backward pass, 1 thread"
    GROUPS[group] = timings
    print("\n" + report(group, timings, "copy of the bytes"))
    benchmark.pedantic(native.step, rounds=20)
    print(f"written to {save('adam', GROUPS)}")

"""Clipping gradients, hot and after a backward pass, beside torch's and a copy of the bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from after_backward import after_backward, two_networks
from bench_adam import SIZES, parameters_of
from hotloop import ops
from interleave import Timing, interleaved, report, save

GROUPS: dict[str, dict[str, Timing]] = {}
LIMIT = 1e-3  # so small that every call scales the gradients


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_clip_grad_norm(benchmark: BenchmarkFixture, size: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours, theirs = parameters_of(size), parameters_of(size)
        norm = torch.zeros(())
        # the gradients are read twice and written once, as a copy of one and a half
        source = torch.ones(3 * sum(each.numel() for each in ours) // 2)
        target = torch.empty_like(source)
        torch.testing.assert_close(
            ops.clip_grad_norm_(ours, LIMIT), torch.nn.utils.clip_grad_norm_(theirs, LIMIT), rtol=1e-4, atol=0
        )
        torch.testing.assert_close([e.grad for e in ours], [e.grad for e in theirs], rtol=1e-4, atol=0)
        # from here on both scale gradients whose norm is LIMIT already, by a factor just below one
        contestants: dict[str, Callable[[], object]] = {
            "copy of the bytes": lambda: target.copy_(source),
            "hotloop": lambda: ops.clip_grad_norm_(ours, LIMIT, out=norm),
            "torch": lambda: torch.nn.utils.clip_grad_norm_(theirs, LIMIT),
        }
        timings = interleaved(contestants, rounds=200 if source.numel() < 10**6 else 20)
        group = f"{size}, hot, {threads} thread(s)"
        GROUPS[group] = timings
        print("\n" + report(group, timings, "copy of the bytes"))
        benchmark.pedantic(contestants["hotloop"], rounds=20)
    finally:
        torch.set_num_threads(before)
    print(f"written to {save('clip_grad_norm', GROUPS)}")


def test_clip_grad_norm_after_a_backward_pass(benchmark: BenchmarkFixture, one_thread: None) -> None:
    networks = two_networks()
    parameters, norm = list(networks.parameters()), torch.zeros(())
    source = torch.ones(3 * sum(each.numel() for each in parameters) // 2)
    target = torch.empty_like(source)
    contestants: dict[str, Callable[[], object]] = {
        "copy of the bytes": lambda: target.copy_(source),
        "hotloop": lambda: ops.clip_grad_norm_(parameters, LIMIT, out=norm),
        "torch": lambda: torch.nn.utils.clip_grad_norm_(parameters, LIMIT),
    }
    timings = after_backward(networks, contestants)
    group = "12 tensors, 9k numbers, after a backward pass, 1 thread"
    GROUPS[group] = timings
    print("\n" + report(group, timings, "copy of the bytes"))
    benchmark.pedantic(contestants["hotloop"], rounds=20)
    print(f"written to {save('clip_grad_norm', GROUPS)}")

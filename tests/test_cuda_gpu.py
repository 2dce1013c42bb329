"""What only a GPU can show: streams, capture in a graph, devices, and that no call waits for the device.

The op tests themselves run on the GPU too, see `cuda_host_support`; `make test-gpu` runs both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from estimator_support import departure, pick
from hotloop import ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch.cuda.is_available() is False: no GPU here"
    ),
]

SHAPES = [(64, 16), (64, 200), (9000, 40), (200, 3000), (4, 20000)]


def on_gpu(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {name: tensor.cuda() for name, tensor in departure(shape, dtype).items()}


def gae(x: dict[str, Tensor], **more: Any) -> tuple[Tensor, Tensor]:
    flags = pick(x, "terminated", "truncated", "truncation_values", "valid", "last_values")
    return ops.gae(x["rewards"], x["values"], **flags, gamma=0.97, gae_lambda=0.9, **more)


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_strict_results_are_the_bits_of_the_cpu(shape: tuple[int, int], dtype: torch.dtype) -> None:
    with ops.determinism("strict"):
        there = gae(on_gpu(shape, dtype))
    for actual, expected in zip(there, gae(departure(shape, dtype)), strict=True):
        assert torch.equal(actual.cpu(), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fast_results_are_close_and_the_same_each_time(shape: tuple[int, int]) -> None:
    first, again, expected = gae(on_gpu(shape)), gae(on_gpu(shape)), gae(departure(shape))
    for one, two, cpu in zip(first, again, expected, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(one.cpu(), cpu, rtol=0, atol=2e-6 * cpu.abs().max().item())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_call_waits_for_the_device(shape: tuple[int, int]) -> None:
    x = on_gpu(shape)
    priorities, summary = (
        torch.empty(shape[0], device="cuda"),
        torch.empty(6, device="cuda", dtype=torch.float64),
    )
    with no_waiting():
        gae(x, priorities=priorities, summary=summary)
        with pytest.raises(RuntimeError):  # else the mode would not have seen it
            summary.sum().item()


def test_a_write_advances_the_version_counter() -> None:
    out = tuple(torch.zeros(4, 5, device="cuda") for _ in range(2))
    priorities, summary = torch.zeros(4, device="cuda"), torch.zeros(6, device="cuda", dtype=torch.float64)
    before = [each._version for each in (*out, priorities, summary)]
    gae(on_gpu((4, 5)), out=out, priorities=priorities, summary=summary)
    assert all(
        each._version > version for each, version in zip((*out, priorities, summary), before, strict=True)
    )


def test_truncated_alone_is_refused_rather_than_read() -> None:
    x = on_gpu((4, 5))
    with pytest.raises(ValueError, match="truncation_values must be given with truncated on a CUDA device"):
        ops.gae(
            **pick(x, "rewards", "values", "terminated", "truncated", "last_values"),
            gamma=0.97,
            gae_lambda=0.9,
        )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_call_can_be_captured_in_a_graph(shape: tuple[int, int]) -> None:
    x = on_gpu(shape)
    out = tuple(torch.zeros(shape, device="cuda") for _ in range(2))
    gae(x, out=out)  # loads the kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        gae(x, out=out)
    x["rewards"].copy_(torch.randn(shape))
    graph.replay()
    for actual, expected in zip(out, gae(x), strict=True):
        assert torch.equal(actual, expected)


def test_the_current_stream_is_the_one() -> None:
    x = on_gpu((4096, 128))
    expected = gae(x)[0]
    stream = torch.cuda.Stream()
    rewards = torch.zeros_like(x["rewards"])
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # what is queued behind this has not happened when the call returns
        rewards.copy_(x["rewards"])
        result = gae({**x, "rewards": rewards})[0]
    stream.synchronize()
    assert torch.equal(result, expected)


def test_tensors_on_two_devices_are_refused() -> None:
    x = on_gpu((4, 5))
    x["rewards"] = x["rewards"].cpu()
    with pytest.raises(TypeError, match="rewards must be a tensor on a CUDA device"):
        gae(x)


def test_truncated_without_values_is_refused_without_looking() -> None:
    x = on_gpu((4, 5))
    with pytest.raises(ValueError, match="truncation_values must be given with truncated on a CUDA device"):
        ops.gae(
            **pick(x, "rewards", "values", "terminated", "truncated", "last_values"),
            gamma=0.9,
            gae_lambda=0.9,
        )


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_device_of_the_tensors_is_the_one() -> None:
    x = {name: tensor.to("cuda:1") for name, tensor in departure((64, 40)).items()}
    result = gae(x)[0]
    assert result.device == torch.device("cuda:1")
    assert torch.equal(result.cpu(), gae(on_gpu((64, 40)))[0].cpu())
    assert torch.cuda.current_device() == 0

"""`pixel_linear` beside the product in float32, of floats that exist already and made on the way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from hotloop import ops
from interleave import Timing, interleaved, report, save

SHAPES = [
    (64, 600, 128),
    (1024, 600, 128),
    (16384, 600, 128),
]  # rows of a step or minibatch, in and out features
SETS = 4  # a minibatch is not found in the cache
GROUPS: dict[str, dict[str, Timing]] = {}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_pixel_linear(benchmark: BenchmarkFixture, shape: tuple[int, int, int], one_thread: None) -> None:
    rows, inputs, outputs = shape
    generator = torch.Generator().manual_seed(0)
    sets = [
        torch.randint(0, 256, (rows, inputs), dtype=torch.uint8, generator=generator) for _ in range(SETS)
    ]
    floats = [ops.scale_pixels(pixels) for pixels in sets]
    weight, bias = (
        torch.randn(outputs, inputs, generator=generator),
        torch.randn(outputs, generator=generator),
    )
    out, plain, scaled = torch.empty(rows, outputs), torch.empty(rows, outputs), torch.empty(rows, inputs)
    turn = {"now": 0}

    def taken() -> int:
        turn["now"] = (turn["now"] + 1) % SETS
        return turn["now"]

    def native() -> Tensor:
        return ops.pixel_linear(sets[taken()], weight, bias, out=out)

    grad, change, plain_change = (
        torch.randn(rows, outputs, generator=generator),
        *torch.empty(2, outputs, inputs),
    )
    contestants: dict[str, Callable[[], object]] = {
        "hotloop.ops.pixel_linear(out=)": native,
        "torch.addmm(out=) of floats": lambda: torch.addmm(bias, floats[taken()], weight.t(), out=plain),
        "scale_pixels, torch.addmm(out=)": lambda: torch.addmm(
            bias, ops.scale_pixels(sets[taken()], out=scaled), weight.t(), out=plain
        ),
        "hotloop.ops.pixel_linear_grad(out=)": lambda: ops.pixel_linear_grad(sets[taken()], grad, out=change),
        "torch.mm(out=), gradient, of floats": lambda: torch.mm(grad.t(), floats[taken()], out=plain_change),
    }
    timings = interleaved(contestants, rounds=30)
    group = f"{rows}x{inputs} to {outputs}, 1 thread" + ("" if ops.pixel_linear_is_fast() else ", no VNNI")
    GROUPS[group] = timings
    print("\n" + report(group, timings, "torch.addmm(out=) of floats"))
    found = ops.pixel_linear(sets[0], weight, bias)
    torch.testing.assert_close(found, torch.addmm(bias, floats[0], weight.t()), rtol=1e-5, atol=1e-4)
    change = ops.pixel_linear_grad(sets[0], grad)
    torch.testing.assert_close(change, torch.mm(grad.t(), floats[0]), rtol=1e-4, atol=1e-3)
    benchmark.pedantic(native, rounds=10)
    if len(GROUPS) == len(SHAPES):
        print(f"written to {save('pixel_linear', GROUPS)}")

"""`ops.scale_pixels` and the module that uses it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hotloop import _core, ops
from hotloop.ops import reference
from hotloop.policies import Pixels
from layouts import LAYOUTS, SHAPES


def bytes_of(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (2, 3, 5, 7), *SHAPES], ids=str)
def test_has_the_bits_of_the_reference(shape: tuple[int, ...]) -> None:
    pixels = bytes_of(shape)
    scaled = ops.scale_pixels(pixels)
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled, reference.scale_pixels(pixels))


def test_every_value_is_the_nearest_float_to_the_quotient() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    exact = torch.arange(256, dtype=torch.float64) / 255
    assert torch.equal(ops.scale_pixels(every), exact.to(torch.float32))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_and_instruction_set_do_not_change_a_bit(layout: str, isa: str) -> None:
    pixels, place = bytes_of((37, 531)), LAYOUTS[layout]
    expected = reference.scale_pixels(pixels)
    out = place(torch.zeros(37, 531))
    assert ops.scale_pixels(place(pixels), out=out) is out
    assert torch.equal(out, expected)
    assert torch.equal(ops.scale_pixels(place(pixels)), expected)
    _core.set_isa("baseline")
    assert torch.equal(ops.scale_pixels(pixels), expected)


def test_bits_do_not_depend_on_threads(threads: None) -> None:
    pixels = bytes_of((3000, 129))
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        assert torch.equal(ops.scale_pixels(pixels), reference.scale_pixels(pixels))


@pytest.mark.parametrize(
    ("pixels", "out", "error", "message"),
    [
        ([1], None, TypeError, "pixels must be a torch.Tensor, got list"),
        (torch.zeros(3), None, TypeError, "pixels must be uint8, got float32"),
        (torch.zeros(3).byte(), torch.zeros(2), ValueError, r"out must be of shape \[3\], got float32 \[2\]"),
        (torch.zeros(3).byte(), torch.zeros(3).double(), TypeError, "out must be float32, got float64"),
        (torch.zeros(3).byte(), torch.zeros(1).expand(3), ValueError, "out must"),
    ],
)
def test_errors(pixels: Any, out: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"scale_pixels: {message}"):
        ops.scale_pixels(pixels, out=out)


def test_out_lies_apart() -> None:
    memory = torch.zeros(8)
    with pytest.raises(ValueError, match="scale_pixels: out must"):
        ops.scale_pixels(memory.view(torch.uint8)[:8], out=memory)


def test_the_module_divides_whatever_comes() -> None:
    pixels = bytes_of((4, 6))
    expected = pixels.to(torch.float32) / 255.0
    module = Pixels()
    assert torch.equal(module(pixels), expected)
    assert torch.equal(module(pixels.int()), expected)
    assert torch.equal(torch.func.vmap(module)(pixels), expected)
    assert torch.equal(torch.compile(module, backend="eager")(pixels), expected)

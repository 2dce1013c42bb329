"""`ops.pixel_linear_grad` against its reference, which has the same bits, and against the exact product."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop import _core, ops
from hotloop.ops import reference
from layouts import LAYOUTS


def bytes_of(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def grads_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def exact(pixels: Tensor, grad: Tensor) -> Tensor:
    return grad.double().t() @ (pixels.double() / 255)


# In_features around a tile of 32, out_features around a tile of 4 and a chunk of 16.
@pytest.mark.parametrize("width", [0, 1, 31, 32, 33, 100])
@pytest.mark.parametrize("outputs", [0, 1, 3, 4, 5, 15, 16, 17])
def test_has_the_bits_of_the_reference(width: int, outputs: int, isa: str) -> None:
    pixels, grad = bytes_of(21, width), grads_of(21, outputs)
    out = ops.pixel_linear_grad(pixels, grad)
    assert out.dtype == torch.float32
    assert torch.equal(out, reference.pixel_linear_grad(pixels, grad))


# Around a group of 4 rows and a block of 512.
@pytest.mark.parametrize("rows", [0, 1, 3, 4, 5, 7, 8, 9, 511, 512, 513, 1024, 1537])
def test_any_number_of_rows(rows: int, isa: str) -> None:
    pixels, grad = bytes_of(rows, 37), grads_of(rows, 6)
    out = ops.pixel_linear_grad(pixels, grad)
    assert torch.equal(out, reference.pixel_linear_grad(pixels, grad))
    torch.testing.assert_close(out.double(), exact(pixels, grad), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("spread", [0.0, 3.0, 12.0])
def test_errors_are_those_of_float32(spread: float, isa: str) -> None:
    pixels, grad = bytes_of(1300, 70), grads_of(1300, 20)
    grad = grad * torch.exp(spread * grads_of(1300, 20).flip(0))
    out = ops.pixel_linear_grad(pixels, grad).double()
    rounded_grads = sum(block.abs().amax(0).double() * 2.0**-23 * len(block) for block in grad.split(512))
    rounded_sums = 9 * 2.0**-24 * (grad.double().abs().t() @ (pixels.double() / 255))
    assert isinstance(rounded_grads, Tensor)
    assert ((out - exact(pixels, grad)).abs() <= rounded_grads[:, None] + rounded_sums).all()


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-38, 2.0**-100, 1.9921, 1.9922, 1.99999988, 1e38, -1.9922])
def test_gradients_of_any_size(largest: float, isa: str) -> None:
    pixels = bytes_of(5, 9)
    grad = torch.tensor([[0.3, -0.7, 1.0, 0.1, -0.2]]).t() * largest
    out = ops.pixel_linear_grad(pixels, grad)
    assert torch.equal(out, reference.pixel_linear_grad(pixels, grad))
    torch.testing.assert_close(out.double(), exact(pixels, grad), rtol=1e-6, atol=abs(largest) * 1e-6 + 1e-37)


def test_sums_of_one_digit_do_not_overflow(isa: str) -> None:
    pixels = torch.full((1100, 3), 255, dtype=torch.uint8)
    for value in (-128.0, -32_896.0, -8_355_000.0, 8_355_711.0):
        grad = torch.full((1100, 2), value)
        torch.testing.assert_close(
            ops.pixel_linear_grad(pixels, grad).double(), exact(pixels, grad), rtol=1e-6, atol=0
        )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("row", [5, 600])
def test_an_output_whose_gradients_are_not_finite_leaves_the_others_alone(
    bad: float, row: int, isa: str
) -> None:
    pixels, grad = bytes_of(700, 33) | 1, grads_of(700, 19)
    expected = ops.pixel_linear_grad(pixels, grad)
    grad[row, 17] = bad
    out = ops.pixel_linear_grad(pixels, grad)
    rest = torch.arange(19) != 17
    assert torch.equal(out[rest], expected[rest])
    assert torch.equal(out[17].nan_to_num(7, 8, 9), torch.full((33,), bad).nan_to_num(7, 8, 9))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_does_not_change_a_bit(layout: str, isa: str) -> None:
    pixels, grad, place = bytes_of(137, 71), grads_of(137, 18), LAYOUTS[layout]
    expected = reference.pixel_linear_grad(pixels, grad)
    assert torch.equal(ops.pixel_linear_grad(place(pixels), place(grad)), expected)
    wide = torch.zeros(20, 80)
    out = wide[1:19, 1:72]
    assert ops.pixel_linear_grad(pixels, grad, out=out) is out
    assert torch.equal(out, expected)
    out.zero_()
    assert wide.eq(0).all()


def test_bits_do_not_depend_on_threads_or_instruction_set(threads: None) -> None:
    pixels, grad = bytes_of(1300, 200), grads_of(1300, 40)
    expected = reference.pixel_linear_grad(pixels, grad)
    before = _core.isa()
    try:
        for isa in _core.isas_supported():
            _core.set_isa(isa)
            for count in (1, 2, 4):
                torch.set_num_threads(count)
                assert torch.equal(ops.pixel_linear_grad(pixels, grad), expected)
    finally:
        _core.set_isa(before)


P, G = torch.zeros(3, 4).byte(), torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("pixels", "grad", "out", "error", "message"),
    [
        ([1], G, None, TypeError, "pixels must be a torch.Tensor, got list"),
        (P, [1], None, TypeError, "grad must be a torch.Tensor, got list"),
        (P.float(), G, None, TypeError, "pixels must be uint8, got float32"),
        (P, G.double(), None, TypeError, "grad must be float32, got float64"),
        (P[0], G, None, ValueError, "pixels must"),
        (P, G[0], None, ValueError, "grad must"),
        (P, G[:2], None, ValueError, r"grad must .*\[3, 2\]"),
        (P, G, torch.zeros(4, 2), ValueError, r"out must .*\[2, 4\]"),
        (P, G, torch.zeros(2, 4).double(), TypeError, "out must be float32, got float64"),
        (P, G, torch.zeros(4, 2).t(), ValueError, "out must be contiguous in its last dimension"),
        (P, G, torch.zeros(1, 4).expand(2, 4), ValueError, "out must"),
    ],
)
def test_errors(pixels: Any, grad: Any, out: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"pixel_linear_grad: {message}"):
        ops.pixel_linear_grad(pixels, grad, out=out)


def test_out_lies_apart() -> None:
    memory = torch.zeros(64)
    with pytest.raises(ValueError, match="out must"):
        ops.pixel_linear_grad(memory.view(torch.uint8)[:12].view(3, 4), G, out=memory[:8].view(2, 4))
    with pytest.raises(ValueError, match="out must"):
        ops.pixel_linear_grad(P, memory[:6].view(3, 2), out=memory[:8].view(2, 4))

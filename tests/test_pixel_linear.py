"""`ops.pixel_linear` against its reference, which has the same bits, and against the exact product."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hotloop import _core, ops
from hotloop.ops import reference
from layouts import LAYOUTS, SIZES


def bytes_of(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def weights_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def exact(pixels: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(pixels.double() / 255, weight.double(), None if bias is None else bias.double())


# In_features around a group of 4 bytes and the 16 weights that become digits together.
@pytest.mark.parametrize("width", [0, 1, 3, 4, 5, 15, 16, 17, 63, 600])
@pytest.mark.parametrize("outputs", [0, 1, 15, 16, 17, 33])
def test_has_the_bits_of_the_reference(width: int, outputs: int, isa: str) -> None:
    pixels, weight, bias = bytes_of(21, width), weights_of(outputs, width), weights_of(outputs)
    out = ops.pixel_linear(pixels, weight, bias)
    assert out.dtype == torch.float32
    assert torch.equal(out, reference.pixel_linear(pixels, weight, bias))
    assert torch.equal(ops.pixel_linear(pixels, weight), reference.pixel_linear(pixels, weight))


@pytest.mark.parametrize("rows", [*SIZES, 63, 64, 65])
def test_any_number_of_rows(rows: int, isa: str) -> None:
    pixels, weight = bytes_of(rows, 37), weights_of(18, 37)
    assert torch.equal(ops.pixel_linear(pixels, weight), reference.pixel_linear(pixels, weight))


@pytest.mark.parametrize("spread", [0.0, 3.0, 12.0])
def test_errors_are_those_of_float32(spread: float, isa: str) -> None:
    """Weights of very different sizes beside each other: what is lost is half a unit of the largest one."""
    pixels, weight, bias = bytes_of(100, 600), weights_of(20, 600), weights_of(20)
    weight = weight * torch.exp(spread * weights_of(20, 600).flip(0))
    out = ops.pixel_linear(pixels, weight, bias).double()
    wanted = exact(pixels, weight, bias)
    rounded_weights = weight.abs().amax(1).double() * 2.0**-23 * 600
    rounded_sums = 6 * 2.0**-24 * (pixels.double() / 255 @ weight.double().abs().t() + bias.abs())
    assert ((out - wanted).abs() <= rounded_weights + rounded_sums).all()
    if spread == 0:
        plain = F.linear(pixels.float() / 255, weight, bias).double()
        assert (out - wanted).abs().mean() < (plain - wanted).abs().mean()


@pytest.mark.parametrize(
    "largest", [0.0, 1e-45, 1e-38, 2.0**-100, 2.0, 1.9921, 1.9922, 1.99999988, 3e38, -3e38, -1.9922]
)
def test_weights_of_any_size(largest: float, isa: str) -> None:
    """1.9922 is where the digits of the largest weight would need a 24th bit."""
    pixels = bytes_of(9, 5)
    weight = torch.tensor([[0.3, -0.7, 1.0, 0.1, -0.2]]) * largest
    out = ops.pixel_linear(pixels, weight)
    assert torch.equal(out, reference.pixel_linear(pixels, weight))
    wanted = exact(pixels, weight, None)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-6, atol=abs(largest) * 1e-6 + 1e-37)


def test_sums_of_one_digit_do_not_overflow(isa: str) -> None:
    pixels = torch.full((2, 65_793), 255, dtype=torch.uint8)
    for value in (-128.0, -32_896.0, -8_355_000.0, 8_355_711.0):
        weight = torch.full((1, 65_793), value)
        torch.testing.assert_close(
            ops.pixel_linear(pixels, weight).double(), exact(pixels, weight, None), rtol=1e-6, atol=0
        )
    with pytest.raises(ValueError, match="pixels must be of at most 65793 in_features, got 65794"):
        ops.pixel_linear(torch.zeros(1, 65_794).byte(), torch.zeros(1, 65_794))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_output_whose_weights_are_not_finite_leaves_the_others_alone(bad: float, isa: str) -> None:
    pixels, weight, bias = bytes_of(70, 33) | 1, weights_of(19, 33), weights_of(19)
    expected = ops.pixel_linear(pixels, weight, bias)
    weight[17, 5] = bad
    out = ops.pixel_linear(pixels, weight, bias)
    rest = torch.arange(19) != 17
    assert torch.equal(out[:, rest], expected[:, rest])
    assert torch.equal(out[:, 17], torch.full((70,), bad)) or out[:, 17].isnan().all()
    assert out[:, 17].isnan().all() == (bad != bad)


def test_a_bias_that_is_not_finite_is_added(isa: str) -> None:
    out = ops.pixel_linear(bytes_of(9, 5), weights_of(2, 5), torch.tensor([float("inf"), float("nan")]))
    assert out[:, 0].isposinf().all()
    assert out[:, 1].isnan().all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_does_not_change_a_bit(layout: str, isa: str) -> None:
    pixels, weight, place = bytes_of(37, 131), weights_of(18, 131), LAYOUTS[layout]
    bias = place(weights_of(18, 1))[:, 0]
    expected = reference.pixel_linear(pixels, weight, bias)
    assert torch.equal(ops.pixel_linear(place(pixels), place(weight), bias), expected)
    wide = torch.zeros(40, 20)
    out = wide[1:38, 1:19]
    assert ops.pixel_linear(pixels, weight, bias, out=out) is out
    assert torch.equal(out, expected)
    assert wide[:, 0].eq(0).all()
    assert wide[:, 19].eq(0).all()
    assert wide[0].eq(0).all()
    assert wide[38:].eq(0).all()


def test_bits_do_not_depend_on_threads_or_instruction_set(threads: None) -> None:
    pixels, weight = bytes_of(1000, 300), weights_of(40, 300)
    expected = reference.pixel_linear(pixels, weight)
    before = _core.isa()
    try:
        for isa in _core.isas_supported():
            _core.set_isa(isa)
            assert ops.pixel_linear_is_fast() <= (isa == "avx512")
            for count in (1, 2, 4):
                torch.set_num_threads(count)
                assert torch.equal(ops.pixel_linear(pixels, weight), expected)
    finally:
        _core.set_isa(before)


P, W = torch.zeros(3, 4).byte(), torch.zeros(2, 4)


@pytest.mark.parametrize(
    ("pixels", "weight", "bias", "out", "error", "message"),
    [
        ([1], W, None, None, TypeError, "pixels must be a torch.Tensor, got list"),
        (P, [1], None, None, TypeError, "weight must be a torch.Tensor, got list"),
        (P, W, [1], None, TypeError, "bias must be a torch.Tensor, got list"),
        (P.float(), W, None, None, TypeError, "pixels must be uint8, got float32"),
        (P, W.double(), None, None, TypeError, "weight must be float32, got float64"),
        (P, W, torch.zeros(2).double(), None, TypeError, "bias must be float32, got float64"),
        (P[0], W, None, None, ValueError, "pixels must"),
        (P, W[0], None, None, ValueError, "weight must"),
        (P, W[:, :3], None, None, ValueError, r"weight must .*\[2, 4\]"),
        (P, W, torch.zeros(3), None, ValueError, r"bias must .*\[2\]"),
        (P, W, None, torch.zeros(3, 3), ValueError, r"out must .*\[3, 2\]"),
        (P, W, None, torch.zeros(3, 2).double(), TypeError, "out must be float32, got float64"),
        (P, W, None, torch.zeros(2, 3).t(), ValueError, "out must be contiguous in its last dimension"),
        (P, W, None, torch.zeros(1, 2).expand(3, 2), ValueError, "out must"),
        (P, torch.zeros(3, 4)[1:], None, None, None, None),
    ],
)
def test_errors(
    pixels: Any, weight: Any, bias: Any, out: Any, error: type[Exception] | None, message: str
) -> None:
    if error is None:
        assert ops.pixel_linear(pixels, weight, bias, out=out).eq(0).all()
        return
    with pytest.raises(error, match=f"pixel_linear: {message}"):
        ops.pixel_linear(pixels, weight, bias, out=out)


def test_out_lies_apart() -> None:
    memory = torch.zeros(64)
    out = memory[:4].view(2, 2)
    with pytest.raises(ValueError, match="out must"):
        ops.pixel_linear(memory.view(torch.uint8)[:8].view(2, 4), W, out=out)
    with pytest.raises(ValueError, match="out must"):
        ops.pixel_linear(P[:2], memory[:8].view(2, 4), out=out)
    with pytest.raises(ValueError, match="out must"):
        ops.pixel_linear(P[:2], W, memory[:2], out=out)

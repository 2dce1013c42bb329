from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from estimator_support import DISCOUNT, EDGE_SHAPES, assert_same, place, rates
from hotloop import ops
from hotloop.ops import reference
from layouts import FLAG_DTYPES, HALF_DTYPES, LAYOUTS, random_flags

REAL = ("values", "rewards", "next_values", "next_rewards")


def inputs(
    shape: tuple[int, int], dtype: torch.dtype = torch.float32, seed: int = 0, *, arrived: bool = True
) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    x = {
        "values": torch.randn(shape, generator=g).to(dtype),
        "rewards": torch.randn(shape, generator=g).to(dtype),
        "dones": random_flags(shape, g).to(dtype),
        "valid": ~random_flags(shape, g),
    }
    if arrived:
        x["next_values"] = torch.randn(shape[0], generator=g).to(dtype)
        x["next_rewards"] = torch.randn(shape[0], generator=g).to(dtype)
        x["next_dones"] = torch.rand(shape[0], generator=g) < 0.3
    return x


def without_valid(x: dict[str, Any]) -> dict[str, Any]:
    return {n: t for n, t in x.items() if n != "valid"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("arrived", [False, True])
def test_equals_reference_to_the_last_bit(arrived: bool, dtype: torch.dtype, isa: str) -> None:
    for shape in EDGE_SHAPES:
        x = inputs(shape, dtype, arrived=arrived)
        for each in (x, without_valid(x)):
            for layout in ("contiguous", "transposed"):
                result = ops.delta_lambda(**place(each, layout), **DISCOUNT)
                assert_same(result, reference.delta_lambda(**each, **DISCOUNT), shape)


def test_is_puff_advantage_with_ratios_of_one_to_the_last_bit(isa: str) -> None:
    for shape in ((9, 33), (3, 200)):
        x = without_valid(inputs(shape))
        ones = torch.ones(shape)
        assert_same(ops.delta_lambda(**x, **DISCOUNT), ops.puff_advantage(**x, importance=ones, **DISCOUNT))


def test_lambda_zero_is_the_one_step_error() -> None:
    x = without_valid(inputs((5, 40), torch.float64, arrived=False))
    result = ops.delta_lambda(**x, gamma=0.97, gae_lambda=0.0)
    error = x["rewards"][:, 1:] + 0.97 * (1 - x["dones"][:, 1:]) * x["values"][:, 1:] - x["values"][:, :-1]
    torch.testing.assert_close(result[:, :-1], error)
    assert (result[:, -1] == 0).all()


def test_a_row_cut_at_a_done_equals_two_rows() -> None:
    x = without_valid(inputs((3, 30), arrived=False))
    x["dones"].zero_()
    x["dones"][:, 12] = 1.0
    whole = ops.delta_lambda(**x, **DISCOUNT)
    left, right = ({n: t[:, part] for n, t in x.items()} for part in (slice(0, 12), slice(12, None)))
    arrived = {f"next_{n}": x[n][:, 12] for n in ("values", "rewards", "dones")}
    assert_same(whole[:, :12], ops.delta_lambda(**left, **arrived, **DISCOUNT))
    assert_same(whole[:, 12:], ops.delta_lambda(**right, **DISCOUNT))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF_DTYPES], ids=str)
def test_any_strides_and_half_precision(layout: str, dtype: torch.dtype, isa: str) -> None:
    for shape in ((9, 33), (3, 140), (257, 3)):
        x = inputs(shape, dtype)
        out = LAYOUTS[layout](torch.full(shape, math.nan).to(dtype))
        assert ops.delta_lambda(**place(x, layout), **DISCOUNT, out=out) is out
        assert_same(out, reference.delta_lambda(**x, **DISCOUNT), shape)


@pytest.mark.parametrize("flag_dtype", FLAG_DTYPES, ids=str)
def test_flag_dtypes(flag_dtype: torch.dtype) -> None:
    x = inputs((33, 129))
    expected = reference.delta_lambda(**x, **DISCOUNT)
    for name in ("dones", "valid", "next_dones"):
        x[name] = x[name].to(flag_dtype)
    assert_same(ops.delta_lambda(**x, **DISCOUNT), expected)


def test_nothing_crosses_an_invalid_step(isa: str) -> None:
    x = inputs((2, 10))
    x["valid"].fill_(True)
    x["valid"][:, 6] = False
    x["values"][:, 8] = math.nan
    result = ops.delta_lambda(**x, **DISCOUNT)
    assert result[:, :7].isfinite().all()
    assert (result[:, 6] == 0).all()
    assert result[:, 7].isnan().all()
    assert_same(result, reference.delta_lambda(**x, **DISCOUNT))


@pytest.mark.parametrize("rows", [1, 9, 257])
def test_a_discount_for_each_row(rows: int, isa: str) -> None:
    x = inputs((rows, 20))
    for layout in ("contiguous", "transposed"):
        result = ops.delta_lambda(**place(x, layout), **rates(rows))
        for i in range(0, rows, 7):
            row = {n: t[i : i + 1] for n, t in x.items()}
            scalars = {n: t[i].item() for n, t in rates(rows).items()}
            assert_same(result[i : i + 1], reference.delta_lambda(**row, **scalars), i)


@pytest.mark.parametrize("arrived", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("per_row", [False, True])
def test_gradcheck(arrived: bool, masked: bool, per_row: bool) -> None:
    x = inputs((3, 6), torch.float64, arrived=arrived)
    x = x if masked else without_valid(x)
    discount: dict[str, Any] = rates(3, torch.float64) if per_row else DISCOUNT
    names = [n for n in REAL if n in x]

    def function(*reals: Tensor) -> Tensor:
        return ops.delta_lambda(**{**x, **dict(zip(names, reals, strict=True))}, **discount)

    assert torch.autograd.gradcheck(function, [x[n].requires_grad_() for n in names])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_equals_that_of_the_reference(layout: str, isa: str) -> None:
    for shape in ((9, 141), (257, 3), (1, 1), (3, 0)):
        for arrived in (False, True):
            gradients = []
            for function in (ops.delta_lambda, reference.delta_lambda):
                x = inputs(shape, arrived=arrived)
                leaves = [x[n].requires_grad_() for n in REAL if n in x]
                given = place(x, layout) if function is ops.delta_lambda else x
                weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
                result = function(**given, **DISCOUNT) * LAYOUTS[layout](weight)
                if result.requires_grad:
                    result.sum().backward()
                gradients.append([torch.zeros_like(t) if t.grad is None else t.grad for t in leaves])
            for actual, expected in zip(*gradients, strict=True):
                torch.testing.assert_close(actual, expected, msg=str((shape, arrived)))


def test_bits_do_not_depend_on_threads(threads: None) -> None:
    results = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        x = inputs((1030, 129))
        leaves = [x[n].requires_grad_() for n in REAL]
        y = ops.delta_lambda(**x, **DISCOUNT)
        y.square().sum().backward()
        results.append((y.detach(), *(t.grad for t in leaves if t.grad is not None)))
    assert len(results[0]) == 5
    assert_same(results[1], results[0])
    assert_same(results[2], results[0])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 20),
    horizon=st.integers(0, 300),
    layout=st.sampled_from(sorted(LAYOUTS)),
    seed=st.integers(0, 2**31),
    gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1),
    masked=st.booleans(),
    poison=st.lists(st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e38, 1e-42]), max_size=5),
)
def test_property_any_shape_layout_and_value(
    rows: int,
    horizon: int,
    layout: str,
    seed: int,
    gamma: float,
    gae_lambda: float,
    masked: bool,
    poison: list[float],
) -> None:
    x = inputs((rows, horizon), seed=seed)
    x = x if masked else without_valid(x)
    for i, bad in enumerate(poison if rows * horizon else []):
        x[("values", "rewards", "dones")[i % 3]].view(-1)[(seed + 7 * i) % (rows * horizon)] = bad
    discount = {"gamma": gamma, "gae_lambda": gae_lambda}
    assert_same(ops.delta_lambda(**place(x, layout), **discount), reference.delta_lambda(**x, **discount))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rewards": torch.zeros(4, 6)}, ValueError, r"rewards must be \[S, T\] = \[4, 5\], got float32"),
        ({"dones": torch.zeros(4, 5).long()}, TypeError, "dones must be bool, uint8 or of a floating"),
        ({"next_dones": None}, ValueError, "must be given together or not at all"),
        ({"valid": torch.zeros(4)}, ValueError, r"valid must be \[S, T\]"),
        ({"gamma": 2.0}, ValueError, r"gamma must be in \[0, 1\]"),
        (
            {"gae_lambda": torch.zeros(3)},
            ValueError,
            r"gae_lambda must be a number or \[S\] = \[4\], got float32 \[3\]",
        ),
        (
            {"out": torch.zeros(4, 5), "values": torch.zeros(4, 5, requires_grad=True)},
            ValueError,
            "out must be None where an input requires grad",
        ),
    ],
)
def test_errors_name_argument_expectation_and_actual(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"delta_lambda: .*{message}"):
        ops.delta_lambda(**{**inputs((4, 5)), **DISCOUNT, **change})

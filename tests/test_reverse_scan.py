from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator_support import EDGE_SHAPES, assert_same
from hotloop import ops
from hotloop.ops import reference
from layouts import HALF_DTYPES, LAYOUTS


def inputs(shape: tuple[int, int], dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    return {
        "a": (2 * torch.rand(shape, generator=g) - 1).to(dtype),
        "b": torch.randn(shape, generator=g).to(dtype),
        "last": torch.randn(shape[0], generator=g).to(dtype),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_reference_to_the_last_bit(dtype: torch.dtype, isa: str) -> None:
    for shape in EDGE_SHAPES:
        x = inputs(shape, dtype)
        assert_same(ops.reverse_scan(**x), reference.reverse_scan(**x), shape)
        assert_same(ops.reverse_scan(x["a"], x["b"]), reference.reverse_scan(x["a"], x["b"]), shape)
        turned = {n: t.t().contiguous() if t.ndim == 2 else t for n, t in x.items()}
        expected = reference.reverse_scan(**turned, time_major=True)
        assert_same(ops.reverse_scan(**turned, time_major=True), expected, shape)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF_DTYPES], ids=str)
def test_any_strides_and_half_precision(layout: str, dtype: torch.dtype, isa: str) -> None:
    for shape in ((9, 33), (3, 140), (257, 3)):
        x = inputs(shape, dtype)
        placed = {n: LAYOUTS[layout](t) if t.ndim == 2 else t for n, t in x.items()}
        out = LAYOUTS[layout](torch.full(shape, math.nan).to(dtype))
        assert ops.reverse_scan(**placed, out=out) is out
        assert_same(out, reference.reverse_scan(**x), shape)


def test_is_a_weighted_sum_of_what_comes_later() -> None:
    x = inputs((3, 12), torch.float64)
    y = ops.reverse_scan(**x)
    for n in range(3):
        for t in range(12):
            total, weight = 0.0, 1.0
            for u in range(t, 12):
                total += weight * x["b"][n, u].item()
                weight *= x["a"][n, u].item()
            total += weight * x["last"][n].item()
            assert y[n, t].item() == pytest.approx(total, abs=1e-12)


def test_builds_gae() -> None:
    g = torch.Generator().manual_seed(3)
    values, rewards = torch.randn(4, 20, generator=g), torch.randn(4, 20, generator=g)
    alive = 1 - (torch.rand(4, 20, generator=g) < 0.2).float()
    last = torch.randn(4, generator=g)
    following = torch.cat([values[:, 1:], last[:, None]], dim=1)
    mine = ops.reverse_scan(0.9 * 0.8 * alive, rewards + 0.9 * alive * following - values)
    advantages, _ = ops.gae(rewards, values, 1 - alive, last_values=last, gamma=0.9, gae_lambda=0.8)
    torch.testing.assert_close(mine, advantages)


def test_nan_and_inf_follow_the_formula(isa: str) -> None:
    for bad in (math.nan, math.inf):
        for name in ("a", "b"):
            x = inputs((9, 37))
            x[name][4, 20] = bad
            x["a"][4, 10] = 0.0  # 0 * NaN is NaN
            assert_same(ops.reverse_scan(**x), reference.reverse_scan(**x))
            assert ops.reverse_scan(**x)[4, 0].isnan()
    ones = torch.ones(1, 2)
    assert ops.reverse_scan(ones * math.inf, ones)[0, 1].isnan()  # inf * 0
    assert ops.reverse_scan(ones * math.inf, ones, torch.ones(1)).isinf().all()


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("with_last", [False, True])
@pytest.mark.parametrize("shape", [(2, 5), (1, 1), (5, 2)], ids=str)
def test_gradcheck(shape: tuple[int, int], with_last: bool, time_major: bool) -> None:
    x = inputs(shape, torch.float64)
    x["last"] = torch.randn(shape[1 if time_major else 0], dtype=torch.float64)
    given_inputs = [t.requires_grad_() for n, t in x.items() if with_last or n != "last"]
    assert torch.autograd.gradcheck(lambda *t: ops.reverse_scan(*t, time_major=time_major), given_inputs)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_gradient_equals_that_of_the_reference(layout: str, dtype: torch.dtype, isa: str) -> None:
    for shape in ((9, 141), (257, 3), (3, 0), (0, 3)):
        gradients = []
        for function in (ops.reverse_scan, reference.reverse_scan):
            x = {n: t.requires_grad_() for n, t in inputs(shape, dtype).items()}
            a, b = (x[n] if function is reference.reverse_scan else LAYOUTS[layout](x[n]) for n in "ab")
            weight = LAYOUTS[layout](torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype))
            (function(a, b, x["last"]) * weight).sum().backward()
            gradients.append([t.grad for t in x.values()])
        for actual, expected in zip(*gradients, strict=True):
            assert actual is not None
            expected = torch.zeros_like(actual) if expected is None else expected
            tolerance = {"rtol": 0.05, "atol": 0.05} if dtype == torch.bfloat16 else {}
            torch.testing.assert_close(actual, expected, **tolerance)


def test_bits_do_not_depend_on_threads(threads: None) -> None:
    results = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        x = {n: t.requires_grad_() for n, t in inputs((1030, 129)).items()}
        y = ops.reverse_scan(**x)
        y.square().sum().backward()
        results.append((y.detach(), *(t.grad for t in x.values())))
    assert_same(results[1], results[0])
    assert_same(results[2], results[0])


def test_out_where_a_gradient_is_wanted() -> None:
    x = inputs((3, 4))
    x["b"].requires_grad_()
    with pytest.raises(ValueError, match="reverse_scan: out must be None where an input requires grad"):
        ops.reverse_scan(**x, out=torch.zeros(3, 4))
    with torch.no_grad():
        ops.reverse_scan(**x, out=torch.zeros(3, 4))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 20),
    horizon=st.integers(0, 300),
    layout=st.sampled_from(sorted(LAYOUTS)),
    seed=st.integers(0, 2**31),
    poison=st.lists(st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e38, 1e-42]), max_size=5),
)
def test_property_any_shape_layout_and_value(
    rows: int, horizon: int, layout: str, seed: int, poison: list[float]
) -> None:
    x = inputs((rows, horizon), seed=seed)
    for i, bad in enumerate(poison if rows * horizon else []):
        x["ab"[i % 2]].view(-1)[(seed + 7 * i) % (rows * horizon)] = bad
    placed = {n: LAYOUTS[layout](t) if t.ndim == 2 else t for n, t in x.items()}
    assert_same(ops.reverse_scan(**placed), reference.reverse_scan(**x))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": torch.zeros(4, 6)}, ValueError, r"a must be \[N, T\] = \[4, 5\], got float32 \[4, 6\]"),
        ({"b": torch.zeros(4)}, ValueError, r"b must be \[N, T\], got float32 \[4\]"),
        ({"a": torch.zeros(4, 5).bool()}, TypeError, "a must be of a floating dtype, got bool"),
        ({"last": torch.zeros(5)}, ValueError, r"last must be \[N\] = \[4\], got float32 \[5\]"),
        ({"out": torch.zeros(4, 5).double()}, TypeError, "out must be float32, got float64"),
    ],
)
def test_errors_name_argument_expectation_and_actual(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"reverse_scan: {message}"):
        ops.reverse_scan(**{**inputs((4, 5)), **change})

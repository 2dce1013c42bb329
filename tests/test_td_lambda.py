"""`td_lambda`: oracles and gradients. What it shares with its kin is in test_departure_estimators.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from estimator_support import (
    DISCOUNT,
    as_tuple,
    assert_same,
    departure,
    monte_carlo,
    one_step_target,
    pick,
    place,
    rates,
    transpose,
)
from hotloop import ops
from hotloop.ops import reference
from layouts import LAYOUTS

NAMES = ("rewards", "values", "terminated", "truncated", "last_values", "truncation_values", "valid")
REAL = ("rewards", "values", "last_values", "truncation_values")


def inputs(shape: tuple[int, int], dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, Any]:
    return pick(departure(shape, dtype, seed), *NAMES)


def test_lambda_one_is_the_monte_carlo_return() -> None:
    x = inputs((4, 50))
    del x["valid"]
    result = ops.td_lambda(**x, gamma=0.97, gae_lambda=1.0)
    torch.testing.assert_close(result, monte_carlo(x, 0.97), rtol=0, atol=1e-10)


def test_lambda_zero_is_the_one_step_target() -> None:
    x = inputs((4, 50))
    del x["valid"]
    result = ops.td_lambda(**x, gamma=0.97, gae_lambda=0.0)
    torch.testing.assert_close(result, one_step_target(x, x["values"], 0.97), rtol=0, atol=1e-12)


def test_is_the_return_of_gae() -> None:
    x = inputs((9, 140))
    torch.testing.assert_close(ops.td_lambda(**x, **DISCOUNT), ops.gae(**x, **DISCOUNT)[1])
    del x["truncated"], x["truncation_values"], x["valid"]
    torch.testing.assert_close(ops.td_lambda(**x, **DISCOUNT), ops.gae(**x, **DISCOUNT)[1])


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("left_out", [(), ("valid",), ("truncated", "truncation_values")], ids=str)
@pytest.mark.parametrize("per_row", [False, True])
def test_gradcheck(left_out: tuple[str, ...], time_major: bool, per_row: bool) -> None:
    x = inputs((3, 6))
    for name in left_out:
        del x[name]
    if time_major:
        x = transpose(x)
    discount: dict[str, Any] = rates(3, torch.float64) if per_row else DISCOUNT
    names = [n for n in REAL if n in x]

    def function(*reals: Tensor) -> Tensor:
        given = {**x, **dict(zip(names, reals, strict=True))}
        return ops.td_lambda(**given, **discount, time_major=time_major)

    assert torch.autograd.gradcheck(function, [x[n].requires_grad_() for n in names])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_equals_that_of_the_reference(layout: str, dtype: torch.dtype, isa: str) -> None:
    for shape in ((9, 141), (257, 3), (1, 1), (3, 0)):
        gradients = []
        for function in (ops.td_lambda, reference.td_lambda):
            x = inputs(shape, dtype)
            leaves = [x[n].requires_grad_() for n in REAL]
            given = place(x, layout) if function is ops.td_lambda else x
            weight = LAYOUTS[layout](torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype))
            (function(**given, **DISCOUNT) * weight).sum().backward()
            gradients.append([torch.zeros_like(t) if t.grad is None else t.grad for t in leaves])
        for actual, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(actual, expected, msg=str(shape))


def test_gradient_where_only_one_input_wants_it() -> None:
    for name in REAL:
        x = inputs((3, 5))
        x[name].requires_grad_()
        assert torch.autograd.grad(ops.td_lambda(**x, **DISCOUNT).sum(), x[name])[0].shape == x[name].shape
        with pytest.raises(ValueError, match="td_lambda: out must be None where an input requires grad"):
            ops.td_lambda(**x, **DISCOUNT, out=torch.zeros(3, 5, dtype=torch.float64))
    x = inputs((3, 5))
    gamma = torch.full((3,), 0.9, requires_grad=True)
    with pytest.raises(ValueError, match="gamma must be a tensor that does not require grad"):
        ops.td_lambda(**x, gamma=gamma, gae_lambda=0.9)


def test_bits_of_the_gradient_do_not_depend_on_threads(threads: None) -> None:
    results = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        x = inputs((1030, 129), torch.float32)
        leaves = [x[n].requires_grad_() for n in REAL]
        ops.td_lambda(**x, **DISCOUNT).square().sum().backward()
        results.append(tuple(t.grad for t in leaves if t.grad is not None))
    assert len(results[0]) == 4
    assert_same(results[1], as_tuple(results[0]))
    assert_same(results[2], as_tuple(results[0]))

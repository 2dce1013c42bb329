"""`ops.return_moments`, and the explained variance that is made of it."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop import _core, ops
from hotloop.losses import formulas
from hotloop.ops import reference
from layouts import HALF_DTYPES, LAYOUTS, SHAPES


def drawn(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    values, advantages = torch.randn(2, *shape, dtype=torch.float64, generator=g).to(dtype).unbind()
    return values + 3.0, advantages, torch.rand(shape, generator=g) < 0.8


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [*SHAPES, (3, 1365), (1, 4096), (64, 65)], ids=str)
def test_agrees_with_reference(shape: tuple[int, int], dtype: torch.dtype, masked: bool) -> None:
    values, advantages, valid = drawn(shape, dtype)
    mask = valid if masked else None
    found, expected = (f.return_moments(values, advantages, mask) for f in (ops, reference))
    assert found.dtype == torch.float64
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_is_what_the_statistics_module_says() -> None:
    values, advantages, valid = drawn((7, 33), torch.float64)
    returns = [float(x) for x in (values + advantages)[valid]]
    left = [float(x) for x in advantages[valid]]
    count, mean, squares, mean_left, squares_left = ops.return_moments(values, advantages, valid).tolist()
    assert count == len(returns)
    assert mean == pytest.approx(statistics.fmean(returns))
    assert squares == pytest.approx(statistics.pvariance(returns) * count)
    assert mean_left == pytest.approx(statistics.fmean(left))
    assert squares_left == pytest.approx(statistics.pvariance(left) * count)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_and_instruction_set_do_not_change_a_bit(layout: str, isa: str) -> None:
    place = LAYOUTS[layout]
    values, advantages, valid = drawn((37, 531))
    expected = ops.return_moments(values, advantages, valid)
    out = torch.full((5,), 7.0, dtype=torch.float64)
    assert ops.return_moments(place(values), place(advantages), place(valid), out=out) is out
    assert torch.equal(out, expected)
    _core.set_isa("baseline")
    assert torch.equal(ops.return_moments(values, advantages, valid), expected)


def test_bits_do_not_depend_on_threads(threads: None) -> None:
    values, advantages, valid = drawn((3000, 129))
    results = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        results.append(ops.return_moments(values, advantages, valid))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
def test_half_precision_is_widened(dtype: torch.dtype, isa: str) -> None:
    values, advantages, valid = drawn((9, 70), dtype)
    expected = ops.return_moments(values.float(), advantages.float(), valid)
    assert torch.equal(ops.return_moments(values, advantages, valid), expected)


def test_what_is_not_finite_is_seen_where_it_counts() -> None:
    for bad in (math.nan, math.inf, -math.inf):
        values, advantages, valid = drawn((9, 33))
        valid[4, 5] = False
        clean = ops.return_moments(values, advantages, valid)
        values[4, 5], advantages[4, 5] = bad, bad
        assert torch.equal(ops.return_moments(values, advantages, valid), clean)
        assert ops.return_moments(values, advantages)[2].isnan()
        assert ops.return_moments(values, advantages)[4].isnan()


def test_nothing_that_counts() -> None:
    values, advantages, _ = drawn((3, 4))
    nothing = torch.zeros(3, 4, dtype=torch.bool)
    assert ops.return_moments(values, advantages, nothing).tolist() == [0.0] * 5
    assert ops.return_moments(values[:0], advantages[:0]).tolist() == [0.0] * 5


@pytest.mark.parametrize("masked", [False, True])
def test_the_explained_variance_of_it(masked: bool) -> None:
    values, advantages, valid = drawn((64, 65))
    mask = valid if masked else None
    expected = formulas.explained_variance(values, values + advantages, mask)
    found = formulas.explained_variance_by(values, advantages, mask)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    deep = formulas.explained_variance_by(values.unsqueeze(2), advantages.unsqueeze(2))
    assert float(deep) == pytest.approx(float(formulas.explained_variance_by(values, advantages)), rel=1e-5)
    assert float(formulas.explained_variance_by(values, -values)) == 0.0  # the returns do not vary


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (([1.0], torch.zeros(1, 1)), TypeError, "values must be a torch.Tensor, got list"),
        ((torch.zeros(3), torch.zeros(3)), ValueError, r"values must be \[S, T\], got float32 \[3\]"),
        ((torch.zeros(2, 3).int(), torch.zeros(2, 3)), TypeError, "values must be of a floating dtype"),
        (
            (torch.zeros(2, 3), torch.zeros(2, 4)),
            ValueError,
            r"advantages must be \[S, T\] = \[2, 3\], got float32 \[2, 4\]",
        ),
        ((torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 2)), ValueError, r"valid must be \[S, T\]"),
    ],
)
def test_errors(args: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"return_moments: {message}"):
        ops.return_moments(*args)
    x = torch.zeros(2, 3)
    for out, kind in ((torch.zeros(5), TypeError), (torch.zeros(4).double(), ValueError)):
        with pytest.raises(kind, match="return_moments: out must be"):
            ops.return_moments(x, x, out=out)
    with pytest.raises(ValueError, match="return_moments: out must be contiguous"):
        ops.return_moments(x, x, out=torch.zeros(10).double()[::2])

from __future__ import annotations

import math

import pytest
import torch

from hotloop import _core, ops
from hotloop.ops import reference
from layouts import HALF_DTYPES, LAYOUTS, SHAPES, same


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_reference(shape: tuple[int, int], alpha: float, dtype: torch.dtype) -> None:
    advantages = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    tolerance = 3e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(
        ops.row_priorities(advantages, alpha),
        reference.row_priorities(advantages, alpha),
        rtol=tolerance,
        atol=0,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_and_instruction_set_do_not_change_a_bit(layout: str, isa: str) -> None:
    advantages = torch.randn(37, 531)
    expected = ops.row_priorities(advantages, 0.7)
    out = torch.zeros(74)[::2]
    assert ops.row_priorities(LAYOUTS[layout](advantages), 0.7, out=out) is out
    assert torch.equal(out, expected)
    _core.set_isa("baseline")
    assert torch.equal(ops.row_priorities(advantages, 0.7), expected)


def test_sums_are_accurate() -> None:
    advantages = torch.full((1, 100_000), 0.1)
    exact = math.fsum([0.1] * 100_000)
    assert ops.row_priorities(advantages).item() == pytest.approx(exact, rel=2e-5)


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_is_summed_in_float32_and_rounded_once(
    dtype: torch.dtype, layout: str, isa: str
) -> None:
    advantages = torch.randn(9, 700).to(dtype)
    advantages[3] = 1000.0  # 7e5 is more than float16 holds
    expected = ops.row_priorities(advantages.float(), 1.0).to(dtype)
    if dtype == torch.float16:
        expected[3] = 0.0
    assert torch.equal(ops.row_priorities(LAYOUTS[layout](advantages), 1.0), expected)
    edge = torch.full((1, 1), 3.3e38).to(torch.bfloat16)
    assert ops.row_priorities(edge).isfinite().all()
    assert ops.row_priorities(edge.expand(1, 2)).item() == 0.0


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_rows_that_are_not_finite_count_as_zero(alpha: float) -> None:
    advantages = torch.ones(5, 20)
    advantages[1, 3], advantages[2, 19], advantages[3, 0] = math.nan, math.inf, -math.inf
    expected = torch.tensor([20.0**alpha, 0, 0, 0, 20.0**alpha])
    torch.testing.assert_close(ops.row_priorities(advantages, alpha), expected)
    assert same(ops.row_priorities(advantages, alpha), reference.row_priorities(advantages, alpha))
    overflow = torch.full((1, 4), 3e38)
    assert ops.row_priorities(overflow, alpha).item() == 0.0
    assert ops.row_priorities(torch.full((1, 4), 1e30), 2.0).item() == 0.0, "the power overflows"


def test_bits_do_not_depend_on_threads(threads: None) -> None:
    advantages = torch.randn(5000, 129)
    results = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        results.append(ops.row_priorities(advantages, 0.6))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((torch.zeros(3),), ValueError, r"advantages must be \[S, T\], got float32 \[3\]"),
        ((torch.zeros(3, 2).int(),), TypeError, "advantages must be of a floating dtype, got int32"),
        ((torch.zeros(3, 2), -1.0), ValueError, "alpha must be >= 0"),
        ((torch.zeros(3, 2), None), TypeError, "alpha must be a number, got NoneType"),
    ],
)
def test_errors(args: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"row_priorities: {message}"):
        ops.row_priorities(*args)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"row_priorities: out must be \[S\] = \[3\], got float32 \[2\]"):
        ops.row_priorities(torch.zeros(3, 2), out=torch.zeros(2))

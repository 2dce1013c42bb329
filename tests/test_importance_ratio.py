from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hotloop import _core, ops
from hotloop.ops import reference
from layouts import FLAG_DTYPES, HALF_DTYPES, LAYOUTS, SHAPES, random_flags, same


def log_probs(shape: tuple[int, int], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    new, old = torch.randn(2, *shape, dtype=dtype, generator=generator) * 3
    return new, old


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_reference(shape: tuple[int, int], dtype: torch.dtype) -> None:
    new, old = log_probs(shape, dtype)
    valid = random_flags(shape, torch.Generator().manual_seed(1), 0.7)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    for options in ({}, {"valid": valid}, {"valid": valid, "invalid": 0.0}):
        torch.testing.assert_close(
            ops.importance_ratio(new, old, **options),
            reference.importance_ratio(new, old, **options),
            rtol=tolerance,
            atol=0,
        )


def test_is_the_ratio_of_the_probabilities() -> None:
    old, new = torch.rand(3, 4) + 0.1, torch.rand(3, 4) + 0.1
    torch.testing.assert_close(ops.importance_ratio(new.log(), old.log()), new / old)
    far = torch.tensor([[-50.0, 50.0]])
    expected = torch.tensor([[math.exp(-10), math.exp(10)]])
    torch.testing.assert_close(ops.importance_ratio(far, torch.zeros(1, 2)), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_and_instruction_set_do_not_change_a_bit(layout: str, isa: str) -> None:
    new, old = log_probs((37, 531), torch.float32)
    valid = new > 0
    expected = ops.importance_ratio(new, old, valid, 0.5)
    out = LAYOUTS[layout](torch.zeros(37, 531))
    place = LAYOUTS[layout]
    assert ops.importance_ratio(place(new), place(old), place(valid.to(torch.uint8)), 0.5, out=out) is out
    assert torch.equal(out, expected)
    _core.set_isa("baseline")
    assert torch.equal(ops.importance_ratio(new, old, valid, 0.5), expected)


@pytest.mark.parametrize("dtype", FLAG_DTYPES, ids=str)
def test_every_kind_of_flag(dtype: torch.dtype) -> None:
    valid = torch.tensor([[1, 0, 1, 0, 0]]).to(dtype)
    ratio = ops.importance_ratio(torch.ones(1, 5), torch.ones(1, 5), valid, 7.0)
    assert ratio.tolist() == [[1, 7, 1, 7, 7]]


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
def test_stored_in_half_precision(dtype: torch.dtype) -> None:
    new, old = log_probs((9, 33), torch.float32)
    old = old.to(dtype)
    assert torch.equal(ops.importance_ratio(new, old), ops.importance_ratio(new, old.float()))


def test_what_is_not_finite() -> None:
    new = torch.tensor([[math.nan, math.inf, -math.inf, 0.0, math.nan]])
    valid = torch.tensor([[True, True, True, True, False]])
    ratio = ops.importance_ratio(new, torch.zeros(1, 5), valid)
    assert same(ratio, reference.importance_ratio(new, torch.zeros(1, 5), valid))
    assert ratio[0, 0].isnan()
    assert ratio[0, 3:].tolist() == [1, 1]


def test_bits_do_not_depend_on_threads(threads: None) -> None:
    new, old = log_probs((3000, 129), torch.float32)
    results = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        results.append(ops.importance_ratio(new, old))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


X = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((torch.zeros(3), X), ValueError, r"new_log_prob must be \[B, T\], got float32 \[3\]"),
        ((X.int(), X), TypeError, "new_log_prob must be float32 or float64, got int32"),
        ((X, X.int()), TypeError, "old_log_prob must be of a floating dtype, got int32"),
        ((X, X[:1]), ValueError, r"old_log_prob must be \[B, T\] = \[3, 2\], got float32 \[1, 2\]"),
        ((X, X, X[:1] > 0), ValueError, r"valid must be \[B, T\] = \[3, 2\], got bool \[1, 2\]"),
        ((X, X, X.int()), TypeError, "valid must be bool, uint8 or of a floating dtype, got int32"),
        ((X, X, None, "0"), TypeError, "invalid must be a number, got str"),
        (
            (X.clone().requires_grad_(), X),
            ValueError,
            "new_log_prob must be a tensor that does not require grad",
        ),
    ],
)
def test_errors(args: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"importance_ratio: {message}"):
        ops.importance_ratio(*args)


def test_out_must_fit_and_lie_apart() -> None:
    with pytest.raises(ValueError, match=r"importance_ratio: out must be \[B, T\] = \[3, 2\]"):
        ops.importance_ratio(X, X, out=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="importance_ratio: out must"):
        ops.importance_ratio(X, X, out=X)

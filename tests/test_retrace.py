"""`retrace`: oracles. What it shares with its kin is in test_departure_estimators.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from estimator_support import DISCOUNT, departure, monte_carlo, one_step_target, pick
from hotloop import ops

NAMES = (
    "rewards",
    "q_values",
    "values",
    "terminated",
    "truncated",
    "last_values",
    "truncation_values",
    "valid",
)


def inputs(shape: tuple[int, int] = (4, 30)) -> dict[str, Any]:
    return pick(departure(shape, torch.float64), *NAMES, "importance")


def test_equals_the_sum_of_the_paper() -> None:
    # Munos et al. 2016, equations 3 and 4, written out for a row without ends: no recurrence.
    x = inputs((3, 12))
    for name in ("truncated", "truncation_values", "valid"):
        del x[name]
    x["terminated"].zero_()
    c = 0.9 * x["importance"].clamp(max=1.0)
    v = torch.cat([x["values"], x["last_values"][:, None]], dim=1)
    delta = x["rewards"] + 0.97 * v[:, 1:] - x["q_values"]
    result = ops.retrace(**x, gamma=0.97, gae_lambda=0.9)
    for s in range(12):
        expected = x["q_values"][:, s] + sum(
            0.97 ** (t - s) * c[:, s + 1 : t + 1].prod(dim=1) * delta[:, t] for t in range(s, 12)
        )
        torch.testing.assert_close(result[:, s], expected)


def test_lambda_zero_is_expected_sarsa() -> None:
    x = inputs()
    del x["valid"]
    result = ops.retrace(**x, gamma=0.97, gae_lambda=0.0)
    torch.testing.assert_close(result, one_step_target(x, x["values"], 0.97), rtol=0, atol=1e-12)


def test_on_policy_with_q_equal_to_v_is_td_lambda() -> None:
    x = inputs()
    x["importance"].fill_(1.0)
    x["q_values"] = x["values"]
    expected = ops.td_lambda(**pick(x, *(n for n in NAMES if n != "q_values")), **DISCOUNT)
    torch.testing.assert_close(ops.retrace(**x, **DISCOUNT), expected)
    del x["valid"]
    torch.testing.assert_close(ops.retrace(**x, gamma=0.97), monte_carlo(x, 0.97), rtol=0, atol=1e-10)


def test_views_that_begin_at_the_same_address_are_told_apart() -> None:
    x = inputs((3, 8))
    wide = torch.randn(3, 16, dtype=torch.float64)
    x["values"], x["q_values"] = wide[:, :8], wide[:, ::2]
    copied = {n: t.clone() for n, t in x.items()}
    assert torch.equal(ops.retrace(**x, **DISCOUNT), ops.retrace(**copied, **DISCOUNT))


def test_neither_the_first_value_nor_the_first_ratio_matters() -> None:
    x = inputs()
    before = ops.retrace(**x, **DISCOUNT)
    x["values"][:, 0] = float("nan")
    x["importance"][:, 0] = float("nan")
    assert torch.equal(ops.retrace(**x, **DISCOUNT), before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"values": torch.zeros(4, 6)}, ValueError, r"values must be \[N, T\] = \[4, 30\]"),
        ({"q_values": torch.zeros(4)}, ValueError, r"q_values must be \[N, T\], got float32 \[4\]"),
        ({"importance": torch.ones(4, 30).bool()}, TypeError, "importance must be of a floating dtype"),
        ({"c_clip": -1.0}, ValueError, "c_clip must be >= 0"),
    ],
)
def test_errors_name_argument_expectation_and_actual(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"retrace: {message}"):
        ops.retrace(**{**inputs(), **DISCOUNT, **change})

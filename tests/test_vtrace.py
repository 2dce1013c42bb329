"""`vtrace`: oracles. What it shares with its kin is in test_departure_estimators.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from estimator_support import DISCOUNT, assert_same, departure, monte_carlo, pick
from hotloop import ops

NAMES = ("rewards", "values", "terminated", "truncated", "last_values", "truncation_values", "valid")


def inputs(shape: tuple[int, int] = (4, 30), dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    return pick(departure(shape, dtype), *NAMES, "importance")


def test_ratios_of_one_give_gae_to_the_last_bit(isa: str) -> None:
    for shape in ((9, 33), (9, 200), (300, 5)):
        x = inputs(shape, torch.float32)
        x["importance"].fill_(1.0)
        targets, advantages = ops.vtrace(**x, **DISCOUNT)
        del x["importance"]
        assert_same((advantages, targets), ops.gae(**x, **DISCOUNT))


def test_ratios_of_one_and_lambda_one_give_the_monte_carlo_return() -> None:
    x = inputs()
    del x["valid"]
    x["importance"].fill_(1.0)
    targets, advantages = ops.vtrace(**x, gamma=0.97)
    returns = monte_carlo(x, 0.97)
    torch.testing.assert_close(targets, returns, rtol=0, atol=1e-10)
    torch.testing.assert_close(advantages, returns - x["values"], rtol=0, atol=1e-10)


def test_equals_the_sum_of_the_paper() -> None:
    # Espeholt et al. 2018, equation 1, written out for a row without ends: no recurrence.
    x = inputs((3, 12))
    for name in ("truncated", "truncation_values", "valid"):
        del x[name]
    x["terminated"].zero_()
    rho, c = x["importance"].clamp(max=1.1), x["importance"].clamp(max=0.9)
    v = torch.cat([x["values"], x["last_values"][:, None]], dim=1)
    delta = rho * (x["rewards"] + 0.97 * v[:, 1:] - v[:, :-1])
    expected = torch.zeros(3, 13, dtype=torch.float64)
    expected[:, 12] = x["last_values"]
    for s in range(12):
        expected[:, s] = v[:, s] + sum(
            0.97 ** (t - s) * c[:, s:t].prod(dim=1) * delta[:, t] for t in range(s, 12)
        )
    targets, advantages = ops.vtrace(**x, gamma=0.97, rho_clip=1.1, c_clip=0.9, pg_rho_clip=1.3)
    torch.testing.assert_close(targets, expected[:, :-1])
    paper = x["importance"].clamp(max=1.3) * (x["rewards"] + 0.97 * expected[:, 1:] - v[:, :-1])
    torch.testing.assert_close(advantages, paper)


def test_agrees_with_the_arrival_indexed_op_on_shifted_data() -> None:
    x = inputs()
    del x["truncated"], x["truncation_values"], x["valid"]
    dones, zero = x["terminated"].double(), torch.zeros(4, 1, dtype=torch.float64)
    targets, _ = ops.vtrace(**x, **DISCOUNT, rho_clip=1.2, c_clip=0.9)
    shifted = ops.puff_advantage(
        x["values"],
        torch.cat([zero, x["rewards"][:, :-1]], dim=1),
        torch.cat([zero, dones[:, :-1]], dim=1),
        x["importance"],
        **DISCOUNT,
        rho_clip=1.2,
        c_clip=0.9,
        next_values=x["last_values"],
        next_rewards=x["rewards"][:, -1],
        next_dones=dones[:, -1],
    )
    torch.testing.assert_close(targets - x["values"], shifted)


def test_the_policy_gradient_ratio_is_clipped_like_rho_unless_told() -> None:
    x = inputs()
    told = ops.vtrace(**x, **DISCOUNT, rho_clip=0.7, pg_rho_clip=0.7)
    assert_same(ops.vtrace(**x, **DISCOUNT, rho_clip=0.7), told)
    assert not torch.equal(ops.vtrace(**x, **DISCOUNT, rho_clip=0.7, pg_rho_clip=math.inf)[1], told[1])


def test_ratios_of_zero_leave_the_values() -> None:
    x = inputs()
    x["importance"].zero_()
    targets, advantages = ops.vtrace(**x, **DISCOUNT)
    assert torch.equal(targets, x["values"])
    assert (advantages == 0).all()


def test_a_nan_ratio_is_not_clipped_away() -> None:
    x = inputs()
    x["valid"].fill_(True)
    x["importance"][0, 3] = math.nan
    targets, advantages = ops.vtrace(**x, **DISCOUNT)
    assert targets[0, 3].isnan()
    assert advantages[0, 3].isnan()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"importance": torch.zeros(4, 6)}, ValueError, r"importance must be \[N, T\] = \[4, 30\]"),
        ({"importance": torch.ones(4, 30).bool()}, TypeError, "importance must be of a floating dtype"),
        ({"rho_clip": -1.0}, ValueError, "rho_clip must be >= 0"),
        ({"c_clip": "x"}, TypeError, "c_clip must be a number"),
        ({"pg_rho_clip": math.nan}, ValueError, "pg_rho_clip must be >= 0"),
    ],
)
def test_errors_name_argument_expectation_and_actual(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"vtrace: {message}"):
        ops.vtrace(**{**inputs(), **DISCOUNT, **change})

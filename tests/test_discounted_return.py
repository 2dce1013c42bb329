"""`discounted_return`: oracles. What it shares with its kin is in test_departure_estimators.py."""

from __future__ import annotations

import torch

from estimator_support import departure, monte_carlo, pick
from hotloop import ops

NAMES = ("rewards", "terminated", "truncated", "last_values", "truncation_values", "valid")


def test_is_the_monte_carlo_return() -> None:
    x = pick(departure((4, 140), torch.float64), *NAMES[:-1])
    torch.testing.assert_close(
        ops.discounted_return(**x, gamma=0.97), monte_carlo(x, 0.97), rtol=0, atol=1e-10
    )


def test_undiscounted_without_ends_is_the_sum_from_behind() -> None:
    x = departure((5, 33), torch.float64)
    nothing, zeros = torch.zeros(5, 33), torch.zeros(5, dtype=torch.float64)
    result = ops.discounted_return(x["rewards"], nothing, last_values=zeros, gamma=1.0)
    torch.testing.assert_close(result, x["rewards"].flip(1).cumsum(1).flip(1))
    result = ops.discounted_return(x["rewards"], nothing, last_values=zeros, gamma=0.0)
    assert torch.equal(result, x["rewards"])


def test_equals_td_lambda_with_lambda_one() -> None:
    x = departure((9, 140), torch.float64)
    given = pick(x, *NAMES[:-1])
    torch.testing.assert_close(
        ops.discounted_return(**given, gamma=0.9),
        ops.td_lambda(**given, values=x["values"], gamma=0.9, gae_lambda=1.0),
    )


def test_a_filler_step_returns_zero_and_stops_the_sum() -> None:
    rewards, valid = torch.ones(1, 5), torch.tensor([[1, 1, 0, 1, 1]]).bool()
    result = ops.discounted_return(
        rewards, torch.zeros(1, 5), last_values=torch.tensor([10.0]), valid=valid, gamma=1.0
    )
    assert result.tolist() == [[2.0, 1.0, 0.0, 12.0, 11.0]]

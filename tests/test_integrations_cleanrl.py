"""`hotloop.integrations.cleanrl.gae` beside the loop that CleanRL's scripts have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop.integrations import cleanrl
from hotloop.integrations.decay import matching_lambda

GAMMAS = [(0.99, 0.95), (0.9, 0.3), (0.997, 0.9), (1.0, 1.0), (0.5, 0.0), (0.0, 0.7), (0.999, 0.98)]


def rollout(
    steps: int, agents: int, dtype: torch.dtype = torch.float32, end: float = 0.2
) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(steps * 1000 + agents)
    return {
        "rewards": torch.randn(steps, agents, generator=random, dtype=dtype),
        "values": torch.randn(steps, agents, generator=random, dtype=dtype),
        "dones": (torch.rand(steps, agents, generator=random) < end).to(dtype),
        "next_value": torch.randn(1, agents, generator=random, dtype=dtype),
        "next_done": (torch.rand(agents, generator=random) < end).to(dtype),
    }


def script(
    rewards: Tensor,
    values: Tensor,
    dones: Tensor,
    next_value: Tensor,
    next_done: Tensor,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    """The same by the definition, as such a script computes it."""
    advantages = torch.zeros_like(rewards)
    later: Any = 0
    for t in range(len(rewards) - 1, -1, -1):
        alive = 1.0 - (next_done if t + 1 == len(rewards) else dones[t + 1])
        following = next_value if t + 1 == len(rewards) else values[t + 1]
        error = rewards[t] + gamma * following * alive - values[t]
        later = error + gamma * lam * alive * later
        advantages[t] = later
    return advantages, advantages + values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("gamma", "lam"), GAMMAS)
@pytest.mark.parametrize(("steps", "agents"), [(1, 1), (1, 5), (128, 4), (33, 129)])
def test_it_is_the_scripts_to_the_last_bit(
    steps: int, agents: int, gamma: float, lam: float, dtype: torch.dtype
) -> None:
    given = rollout(steps, agents, dtype)
    expected = script(**given, gamma=gamma, lam=lam)
    found = cleanrl.gae(**given, gamma=gamma, gae_lambda=lam)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        assert torch.equal(ours, theirs)


def test_most_discounts_are_the_scripts_to_the_last_bit() -> None:
    """Where no lambda gives the script's product, the decay is one unit in the last place beside it."""
    random = torch.Generator().manual_seed(0)
    exact = 0
    pairs = (0.9 + 0.1 * torch.rand(200, 2, generator=random, dtype=torch.float64)).tolist()
    for gamma, lam in pairs:
        chosen = torch.tensor(matching_lambda(gamma, lam))
        product = torch.tensor(gamma, dtype=torch.float32) * chosen
        wanted = torch.tensor(gamma * lam, dtype=torch.float32)
        exact += bool(product == wanted)
        torch.testing.assert_close(product, wanted, rtol=1.2e-7, atol=0.0)
    assert exact == len(pairs)


def test_shapes_and_flags_as_scripts_have_them() -> None:
    given = rollout(16, 8)
    expected = cleanrl.gae(**given, gamma=0.99, gae_lambda=0.95)
    value, done = given["next_value"], given["next_done"]
    for changed in (
        {"next_value": value.reshape(8)},
        {"next_value": value.reshape(8, 1)},
        {"next_done": done.reshape(1, 8)},
        {"next_done": done.bool()},
        {"dones": given["dones"].bool()},
        {"dones": given["dones"].to(torch.uint8)},
        {"rewards": given["rewards"].t().contiguous().t()},
    ):
        found = cleanrl.gae(**{**given, **changed}, gamma=0.99, gae_lambda=0.95)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), changed


def test_the_first_row_of_dones_is_not_read() -> None:
    given = rollout(16, 8)
    expected = cleanrl.gae(**given, gamma=0.99, gae_lambda=0.95)
    given["dones"][0] = 1 - given["dones"][0]
    found = cleanrl.gae(**given, gamma=0.99, gae_lambda=0.95)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_an_infinite_value_does_not_cross_an_episodes_end() -> None:
    given = rollout(6, 2, end=0.0)
    given["dones"][3] = 1.0
    given["values"][3] = torch.inf
    advantages, _ = cleanrl.gae(**given, gamma=0.99, gae_lambda=0.95)
    assert bool(advantages[:3].isfinite().all())


def test_out_is_written_and_returned() -> None:
    given = rollout(16, 8)
    expected = cleanrl.gae(**given, gamma=0.99, gae_lambda=0.95)
    out = torch.full((16, 8), 7.0), torch.full((16, 8), 7.0)
    found = cleanrl.gae(**given, gamma=0.99, gae_lambda=0.95, out=out)
    assert found[0] is out[0]
    assert found[1] is out[1]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"rewards": [1.0]}, TypeError, r"cleanrl\.gae: rewards must be a torch\.Tensor \[T, N\], got list"),
        ({"next_done": 0.0}, TypeError, r"cleanrl\.gae: next_done must be a torch\.Tensor, got float"),
        ({"rewards": torch.zeros(16)}, ValueError, r"rewards must be \[T, N\] with T > 0, got \[16\]"),
        (
            {"dones": torch.zeros(8, 16)},
            ValueError,
            r"dones must be .* got \[8, 16\] beside rewards \[16, 8\]",
        ),
        (
            {"next_value": torch.zeros(1, 7)},
            ValueError,
            r"next_value must be \[8\] or \[1, 8\], got \[1, 7\]",
        ),
        ({"gamma": 1.5}, ValueError, r"gae: gamma must be in \[0, 1\]"),
        ({"values": torch.zeros(16, 8, dtype=torch.int64)}, TypeError, "gae: values must be"),
        (
            {"values": torch.zeros(16, 8, requires_grad=True)},
            ValueError,
            "gae: values must be .* requires_grad=True",
        ),
    ],
)
def test_wrong_arguments(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cleanrl.gae(**{**rollout(16, 8), "gamma": 0.99, "gae_lambda": 0.95, **changed})

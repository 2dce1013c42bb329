"""Inputs and checks that the tests of the estimators share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layouts import LAYOUTS, SHAPES, random_flags, same

DISCOUNT: dict[str, Any] = {"gamma": 0.97, "gae_lambda": 0.9}
# Around the tile (8 rows, 128 steps) and a block of lanes (256 rows), without those that only repeat it.
EDGE_SHAPES = [s for s in SHAPES if s[0] in (0, 1, 7, 9) and s[1] in (0, 1, 8, 33, 127, 129, 257)] + [
    (8, 64), (33, 128), (257, 3), (300, 1), (256, 9),
]  # fmt: skip
COLUMNS = ("last_values", "last", "next_values", "next_rewards", "next_dones", "gamma", "gae_lambda")


def departure(shape: tuple[int, int], dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Any]:
    """Every input that a departure-indexed estimator may take, optional ones too."""
    g = torch.Generator().manual_seed(seed)
    real = {
        name: torch.randn(shape, generator=g).to(dtype)
        for name in ("rewards", "values", "q_values", "truncation_values")
    }
    return {
        **real,
        "terminated": random_flags(shape, g),
        "truncated": random_flags(shape, g),
        "valid": ~random_flags(shape, g, 0.1),
        "importance": (2 * torch.rand(shape, generator=g)).to(dtype),
        "last_values": torch.randn(shape[0], generator=g).to(dtype),
    }


def pick(x: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: x[name] for name in names}


def place(x: dict[str, Any], layout: str) -> dict[str, Any]:
    """The matrices among `x` in another memory layout."""
    return {n: LAYOUTS[layout](t) if isinstance(t, Tensor) and t.ndim == 2 else t for n, t in x.items()}


def transpose(x: dict[str, Any]) -> dict[str, Any]:
    """The matrices among `x` as `[T, N]`."""
    return {n: t.t().contiguous() if isinstance(t, Tensor) and t.ndim == 2 else t for n, t in x.items()}


def rates(rows: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """gamma and lambda as `[N]`, zero and one among them."""
    g = torch.Generator().manual_seed(5)
    gamma, gae_lambda = torch.rand(rows, generator=g), torch.rand(rows, generator=g)
    gamma[::5], gae_lambda[::7] = 1.0, 0.0
    return {"gamma": gamma.to(dtype), "gae_lambda": gae_lambda.to(dtype)}


def as_tuple(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result


def assert_same(
    actual: Tensor | tuple[Tensor, ...], expected: Tensor | tuple[Tensor, ...], where: object = ""
) -> None:
    """Equal to the last bit, one tensor or several."""
    pairs = list(zip(as_tuple(actual), as_tuple(expected), strict=True))
    for i, (a, e) in enumerate(pairs):
        assert a.dtype == e.dtype, (where, i)
        assert same(a, e), (where, i)


def monte_carlo(x: dict[str, Any], gamma: float) -> Tensor:
    """Discounted returns, summed forwards from every step on: no recurrence. Without `valid`."""
    rows, horizon = x["rewards"].shape
    returns = torch.zeros(rows, horizon, dtype=torch.float64)
    for n in range(rows):
        for t in range(horizon):
            total, discount = 0.0, 1.0
            for u in range(t, horizon):
                total += discount * x["rewards"][n, u].item()
                discount *= gamma
                if x["terminated"][n, u]:
                    break
                if x["truncated"][n, u]:
                    total += discount * x["truncation_values"][n, u].item()
                    break
            else:
                total += discount * x["last_values"][n].item()
            returns[n, t] = total
    return returns


def one_step_target(x: dict[str, Any], values: Tensor, gamma: float) -> Tensor:
    """r + gamma * V of what follows, vectorised over all steps."""
    following = torch.cat([values[:, 1:], x["last_values"][:, None]], dim=1)
    following = torch.where(x["truncated"], x["truncation_values"], following)
    return x["rewards"] + gamma * torch.where(x["terminated"], 0.0, following)

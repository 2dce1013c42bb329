"""Loops over time in plain torch, as textbooks and CleanRL's ppo.py have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hotloop.bench.case import Contestant
from hotloop.bench.estimators import C_CLIP, ESTIMATORS, GAMMA, LAMBDA, RHO_CLIP, batch_major


def gae_time_major(
    rewards: Tensor, values: Tensor, dones: Tensor, last_values: Tensor, last_dones: Tensor
) -> tuple[Tensor, Tensor]:
    """Advantages and returns `[T, N]`; `dones[t]` says that the action before t ended an episode."""
    advantages = torch.zeros_like(rewards)
    steps = rewards.shape[0]
    trace = torch.zeros_like(last_values)
    for t in reversed(range(steps)):
        if t == steps - 1:
            alive, value_next = 1.0 - last_dones, last_values
        else:
            alive, value_next = 1.0 - dones[t + 1], values[t + 1]
        delta = rewards[t] + GAMMA * value_next * alive - values[t]
        trace = delta + GAMMA * LAMBDA * alive * trace
        advantages[t] = trace
    return advantages, advantages + values


def puff_batch_major(values: Tensor, rewards: Tensor, dones: Tensor, importance: Tensor) -> Tensor:
    """Arrival-indexed, V-trace-clipped advantages `[S, T]`."""
    advantages = torch.zeros_like(values)
    trace = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1] - 1)):
        alive = 1.0 - dones[:, t + 1]
        rho, c = importance[:, t].clamp(max=RHO_CLIP), importance[:, t].clamp(max=C_CLIP)
        delta = rho * (rewards[:, t + 1] + GAMMA * values[:, t + 1] * alive - values[:, t])
        trace = delta + GAMMA * LAMBDA * c * alive * trace
        advantages[:, t] = trace
    return advantages


def departure_dones(x: Any) -> tuple[Tensor, Tensor]:
    """`(dones, last_dones)` as CleanRL and Stable-Baselines3 keep them: one step later than `terminated`."""
    ended = x.terminated.float()
    return torch.cat([torch.zeros_like(ended[:1]), ended[:-1]]), ended[-1].clone()


def calls(op: str, inputs: Sequence[Any], transform: Callable[..., Any] = lambda f: f) -> list[partial[Any]]:
    """One call of the loop for each set of inputs, the loop changed by `transform`."""
    if op in _VECTORISED:
        estimator = next(e for e in ESTIMATORS if e.op == op)
        loop = transform(estimator.oracle)
        return [partial(loop, batch_major(x, torch.float32)) for x in inputs]
    if op == "puff_advantage":
        puff = transform(puff_batch_major)
        return [partial(puff, x.values, x.rewards, x.dones, x.importance) for x in inputs]
    loop = transform(gae_time_major)
    made = []
    for x in inputs:
        dones, last_dones = departure_dones(x)
        made.append(partial(loop, x.rewards, x.values, dones, x.last_values, last_dones))
    return made


def results(returned: Any) -> list[Tensor]:
    return list(returned) if isinstance(returned, (list, tuple)) else [returned]


# Their oracles: coefficients of all steps at once, a loop for the recurrence alone.
_VECTORISED = ("vtrace", "td_lambda", "discounted_return", "delta_lambda", "reverse_scan", "retrace")


def contestants(op: str, layout: str, inputs: Sequence[Any]) -> Iterator[Contestant]:
    name = "torch loop over time" + (" (as CleanRL)" if op == "gae" else "")
    yield Contestant(name, "loop", calls(op, inputs), results)

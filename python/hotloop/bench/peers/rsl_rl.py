"""rsl_rl's `PPO.compute_returns` on plain tensors `[T, N, 1]`, without the critic's forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from hotloop.bench.case import Contestant
from hotloop.bench.estimators import GAMMA, LAMBDA


class _Critic:
    """Knows the last values already."""

    def __init__(self, last_values: Tensor) -> None:
        self._last_values = last_values

    def __call__(self, _: object) -> Tensor:
        return self._last_values

    def get_hidden_state(self) -> None:
        return None

    def reset(self, **_: object) -> None:
        pass


def contestants(op: str, layout: str, inputs: Sequence[Any]) -> Iterator[Contestant]:
    from rsl_rl.algorithms import PPO

    storages, calls = [], []
    for x in inputs:
        storage = SimpleNamespace(
            num_transitions_per_env=x.steps,
            values=x.values.unsqueeze(-1),
            rewards=x.rewards.unsqueeze(-1),
            dones=x.terminated.unsqueeze(-1).byte(),
            returns=torch.zeros(x.steps, x.rows, 1),
            advantages=torch.zeros(x.steps, x.rows, 1),
        )
        owner = SimpleNamespace(
            storage=storage,
            critic=_Critic(x.last_values.unsqueeze(-1)),
            gamma=GAMMA,
            lam=LAMBDA,
            normalize_advantage_per_mini_batch=True,
        )
        storages.append(storage)
        calls.append(partial(PPO.compute_returns, owner, None))

    def result(_: object) -> list[Tensor]:
        return [storages[0].advantages.squeeze(-1), storages[0].returns.squeeze(-1)]

    yield Contestant("PPO.compute_returns", "peer", calls, result)

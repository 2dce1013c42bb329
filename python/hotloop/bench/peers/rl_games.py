"""rl_games' `A2CBase.discount_values`, `[T, N, 1]`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from hotloop.bench.case import Contestant
from hotloop.bench.estimators import GAMMA, LAMBDA
from hotloop.bench.peers.loops import departure_dones


def contestants(op: str, layout: str, inputs: Sequence[Any]) -> Iterator[Contestant]:
    from rl_games.common.a2c_common import A2CBase

    calls = []
    for x in inputs:
        dones, last_dones = departure_dones(x)
        owner = SimpleNamespace(horizon_length=x.steps, gamma=GAMMA, tau=LAMBDA)
        last_values, values, rewards = (t.unsqueeze(-1) for t in (x.last_values, x.values, x.rewards))
        calls.append(partial(A2CBase.discount_values, owner, last_dones, last_values, dones, values, rewards))

    def result(returned: Any) -> list[Tensor]:
        return [returned.squeeze(-1)]

    yield Contestant("discount_values", "peer", calls, result, note="advantages only")

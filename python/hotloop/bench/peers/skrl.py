"""skrl's `compute_gae`, `[T, N, 1]`, which normalises the advantages as well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hotloop.bench.case import Contestant
from hotloop.bench.estimators import GAMMA, LAMBDA


def contestants(op: str, layout: str, inputs: Sequence[Any]) -> Iterator[Contestant]:
    from skrl.agents.torch.ppo.ppo import compute_gae

    calls = []
    for x in inputs:
        rewards, values, terminated = (t.unsqueeze(-1) for t in (x.rewards, x.values, x.terminated))
        calls.append(
            partial(
                compute_gae,
                rewards=rewards,
                terminated=terminated,
                truncated=torch.zeros_like(terminated),
                values=values,
                last_values=x.last_values.unsqueeze(-1),
                discount_factor=GAMMA,
                lambda_coefficient=LAMBDA,
            )
        )

    def result(returned: Any) -> list[Tensor]:
        returns = returned[0].squeeze(-1)
        return [returns - inputs[0].values, returns]

    note = "normalises the advantages too; its returns are compared"
    yield Contestant("compute_gae", "peer", calls, result, note=note)

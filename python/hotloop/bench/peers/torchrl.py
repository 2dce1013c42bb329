"""torchrl's functional estimators, `[N, T, 1]` as its loss modules call them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hotloop.bench.case import Contestant
from hotloop.bench.estimators import C_CLIP, GAMMA, LAMBDA, RHO_CLIP

_NOTE = "next values are given to it ready made"


def contestants(op: str, layout: str, inputs: Sequence[Any]) -> Iterator[Contestant]:
    from torchrl.objectives.value import functional

    calls = []
    for x in inputs:
        following = torch.cat([x.values[:, 1:], x.last_values.unsqueeze(1)], dim=1)
        value, following, reward, done = (
            t.unsqueeze(-1) for t in (x.values, following, x.rewards, x.terminated)
        )
        if op == "gae":
            function = functional.vec_generalized_advantage_estimate
            calls.append(partial(function, GAMMA, LAMBDA, value, following, reward, done, done))
        elif op == "td_lambda":
            function = functional.vec_td_lambda_return_estimate
            calls.append(partial(function, GAMMA, LAMBDA, following, reward, done, done))
        else:
            function = functional.vtrace_advantage_estimate
            log_pi = x.importance.log().unsqueeze(-1)
            given = (log_pi, torch.zeros_like(log_pi), value, following, reward, done, done)
            calls.append(partial(function, GAMMA, *given, RHO_CLIP, C_CLIP))

    def result(returned: Any) -> list[Tensor]:
        tensors = returned if isinstance(returned, tuple) else (returned,)
        # V-trace: advantages come before targets there
        return [t.squeeze(-1) for t in (reversed(tensors) if op == "vtrace" else tensors)]

    # geometric sums in place of the recurrence: other roundings
    yield Contestant(function.__name__, "peer", calls, result, note=_NOTE, rtol=5e-5)

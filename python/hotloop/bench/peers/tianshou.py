"""tianshou's numba function `_gae`, over rows laid end to end as its buffers hold them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hotloop.bench.case import Contestant
from hotloop.bench.estimators import GAMMA, LAMBDA


def contestants(op: str, layout: str, inputs: Sequence[Any]) -> Iterator[Contestant]:
    from tianshou.algorithm.algorithm_base import _gae

    calls = []
    for x in inputs:
        following = torch.cat([x.values[:, 1:], x.last_values.unsqueeze(1)], dim=1) * ~x.terminated
        ends = x.terminated.clone()
        ends[:, -1] = True  # the trace stops at the end of a row, its last value does not
        arrays = [t.reshape(-1).numpy() for t in (x.values, following, x.rewards, ends)]
        calls.append(partial(_gae, *arrays, GAMMA, LAMBDA))

    def result(returned: Any) -> list[Tensor]:
        return [torch.from_numpy(returned).reshape(inputs[0].rows, inputs[0].steps)]

    note = "advantages only, float64 inside; masked next values are given to it ready made"
    yield Contestant("_gae", "peer", calls, result, note=note)

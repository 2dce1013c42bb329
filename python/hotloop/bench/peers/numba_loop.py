"""A loop of our own, compiled by numba: what a few lines of Python reach without C++."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotloop.bench.case import Contestant
from hotloop.bench.estimators import C_CLIP, GAMMA, LAMBDA, RHO_CLIP, TIME


def _puff(
    v: Any, r: Any, d: Any, w: Any, out: Any, gamma: Any, decay: Any, rho_clip: Any, c_clip: Any
) -> None:
    rows, steps = v.shape
    one = np.float32(1)
    for n in range(rows):
        trace = np.float32(0)
        out[n, steps - 1] = trace
        for t in range(steps - 2, -1, -1):
            alive = one - d[n, t + 1]
            delta = min(w[n, t], rho_clip) * (r[n, t + 1] + gamma * alive * v[n, t + 1] - v[n, t])
            trace = delta + decay * min(w[n, t], c_clip) * alive * trace
            out[n, t] = trace


def _gae(
    r: Any, v: Any, ended: Any, last: Any, advantages: Any, returns: Any, gamma: Any, decay: Any
) -> None:
    rows, steps = v.shape
    zero, one = np.float32(0), np.float32(1)
    for n in range(rows):
        trace, value_next = zero, last[n]
        for t in range(steps - 1, -1, -1):
            alive = zero if ended[n, t] else one
            trace = r[n, t] + gamma * alive * value_next - v[n, t] + decay * alive * trace
            value_next = v[n, t]
            advantages[n, t] = trace
            returns[n, t] = trace + value_next


def _gae_time(
    r: Any, v: Any, ended: Any, last: Any, advantages: Any, returns: Any, gamma: Any, decay: Any
) -> None:
    steps, rows = v.shape
    zero, one = np.float32(0), np.float32(1)
    trace = np.zeros(rows, np.float32)
    for t in range(steps - 1, -1, -1):
        following = last if t == steps - 1 else v[t + 1]
        for n in range(rows):
            alive = zero if ended[t, n] else one
            trace[n] = r[t, n] + gamma * alive * following[n] - v[t, n] + decay * alive * trace[n]
            advantages[t, n] = trace[n]
            returns[t, n] = trace[n] + v[t, n]


def contestants(op: str, layout: str, inputs: Sequence[Any]) -> Iterator[Contestant]:
    import numba

    scalars = (np.float32(GAMMA), np.float32(GAMMA * LAMBDA))
    made: list[Callable[[], object]] = []
    outputs: list[list[Tensor]] = []
    python: Callable[..., None] = _puff if op == "puff_advantage" else _gae_time if layout == TIME else _gae
    loop = numba.njit(python)
    for x in inputs:
        if op == "puff_advantage":
            out = [torch.empty_like(x.values)]
            arrays = [t.numpy() for t in (x.values, x.rewards, x.dones, x.importance, *out)]
            made.append(partial(loop, *arrays, *scalars, np.float32(RHO_CLIP), np.float32(C_CLIP)))
        else:
            out = [torch.empty_like(x.values) for _ in range(2)]
            arrays = [t.numpy() for t in (x.rewards, x.values, x.terminated, x.last_values, *out)]
            made.append(partial(loop, *arrays, *scalars))
        outputs.append(out)
    yield Contestant("loop of our own", "loop", made, lambda _: outputs[0])

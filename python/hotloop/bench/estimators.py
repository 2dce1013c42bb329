"""The estimators of `hotloop.ops`: their inputs, what they must read and write, and float64 oracles.

An op is registered in `ESTIMATORS` with a few lines. Everything else (cases, peers, the floor, --explain) is
made from that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from hotloop import ops
from hotloop.bench.case import Result

GAMMA, LAMBDA = 0.99, 0.95
RHO_CLIP, C_CLIP = 1.0, 1.0
_P_DONE = 0.02

BATCH, TIME = "batch-major", "time-major"


@dataclass(frozen=True)
class Estimator:
    """One op: `call(op, inputs, out)` runs it; `oracle(inputs)` is the same on `[rows, steps]` in float64.

    `reads` names inputs (see `make_inputs`), `writes` counts outputs, which have the shape of the first of
    `reads`. `grain_arrays`: as how many float32 arrays the kernel weighs its work when it decides on threads.
    """

    op: str
    reads: tuple[str, ...]
    writes: int
    call: Callable[[Callable[..., Any], Any, tuple[Tensor, ...]], Any]
    oracle: Callable[[Any], Result]
    grain_arrays: int
    layouts: tuple[str, ...] = (BATCH,)

    @property
    def available(self) -> bool:
        """Whether this hotloop has the op."""
        return hasattr(ops, self.op)

    def moved(self, rows: int, steps: int) -> int:
        """Bytes that the op must read and write once."""
        read = sum(_ELEMENT_BYTES[name] * (rows if name in _PER_ROW else rows * steps) for name in self.reads)
        return read + 4 * self.writes * rows * steps


# Bytes of an element; what is not named here is float32.
_FLAGS = ("terminated",)
_PER_ROW = ("last_values",)
_FLOATS = ("values", "q_values", "rewards", "dones", "importance", "scale", "shift")
_ELEMENT_BYTES = {**dict.fromkeys((*_FLOATS, *_PER_ROW), 4), **dict.fromkeys(_FLAGS, 1)}


def make_inputs(reads: tuple[str, ...], rows: int, steps: int, layout: str, seed: int) -> SimpleNamespace:
    """Random inputs by name, `[rows, steps]` or, time-major, `[steps, rows]`; `last_values` is `[rows]`.

    `dones` are float32 flags that arrive with an observation, `terminated` bool flags of the
    outcome of an action; `importance` lies around 1; `scale` and `shift` are a and b of
    y[t] = a[t] y[t+1] + b[t], |a| < 1.
    """
    g = torch.Generator().manual_seed(seed)
    shape = (rows, steps) if layout == BATCH else (steps, rows)
    make: dict[str, Callable[[], Tensor]] = {
        "values": lambda: torch.randn(shape, generator=g),
        "q_values": lambda: torch.randn(shape, generator=g),
        "rewards": lambda: torch.randn(shape, generator=g),
        "shift": lambda: torch.randn(shape, generator=g),
        "scale": lambda: 0.95 * torch.rand(shape, generator=g),
        "dones": lambda: (torch.rand(shape, generator=g) < _P_DONE).float(),
        "importance": lambda: 2 * torch.rand(shape, generator=g),
        "terminated": lambda: torch.rand(shape, generator=g) < _P_DONE,
        "last_values": lambda: torch.randn(rows, generator=g),
    }
    return SimpleNamespace(layout=layout, rows=rows, steps=steps, **{name: make[name]() for name in reads})


def batch_major(x: Any, dtype: torch.dtype) -> SimpleNamespace:
    """The inputs in another dtype (flags as 0 and 1), `[rows, steps]` in either layout."""
    fields = {}
    for name, value in vars(x).items():
        if isinstance(value, Tensor):
            fields[name] = (value.T if x.layout == TIME and value.dim() == 2 else value).to(dtype)
    return SimpleNamespace(rows=x.rows, steps=x.steps, **fields)


def expected(estimator: Estimator, x: Any) -> Result:
    """The oracle's results, in the layout of the inputs."""
    results = estimator.oracle(batch_major(x, torch.float64))
    return [result.T.contiguous() for result in results] if x.layout == TIME else results


def scan(a: Tensor, b: Tensor) -> Tensor:
    """y[t] = a[t] y[t+1] + b[t] with y[T] = 0, on `[rows, steps]`."""
    y, carry = torch.empty_like(b), torch.zeros_like(b[:, 0])
    for t in range(b.shape[1] - 1, -1, -1):
        carry = a[:, t] * carry + b[:, t]
        y[:, t] = carry
    return y


def _shifted(x: Tensor, last: Tensor | None = None) -> Tensor:
    """x[t + 1], and at the last step `last` or 0."""
    end = torch.zeros_like(x[:, :1]) if last is None else last.unsqueeze(1)
    return torch.cat([x[:, 1:], end], dim=1)


def _puff_oracle(x: Any) -> Result:
    alive = 1 - _shifted(x.dones)
    delta = x.importance.clamp(max=RHO_CLIP) * (
        _shifted(x.rewards) + GAMMA * alive * _shifted(x.values) - x.values
    )
    decay = GAMMA * LAMBDA * x.importance.clamp(max=C_CLIP) * alive
    delta[:, -1] = 0  # nothing is known of what arrives after the last step
    decay[:, -1] = 0
    return [scan(decay, delta)]


def _delta_lambda_oracle(x: Any) -> Result:
    x.importance = torch.ones_like(x.values)
    return _puff_oracle(x)


def _departure(x: Any) -> tuple[Tensor, Tensor]:
    """(1 - terminated, TD errors) of departure-indexed rows."""
    alive = 1 - x.terminated
    return alive, x.rewards + GAMMA * alive * _shifted(x.values, x.last_values) - x.values


def _gae_oracle(x: Any) -> Result:
    alive, delta = _departure(x)
    advantages = scan(GAMMA * LAMBDA * alive, delta)
    return [advantages, advantages + x.values]


def _td_lambda_oracle(x: Any) -> Result:
    return _gae_oracle(x)[1:]


def _discounted_return_oracle(x: Any) -> Result:
    alive = 1 - x.terminated
    end = torch.zeros_like(x.rewards)
    end[:, -1] = GAMMA * alive[:, -1] * x.last_values
    return [scan(GAMMA * alive, x.rewards + end)]


def _vtrace_oracle(x: Any) -> Result:
    alive, delta = _departure(x)
    rho, c = x.importance.clamp(max=RHO_CLIP), x.importance.clamp(max=C_CLIP)
    corrections = scan(GAMMA * alive * c, rho * delta)
    return [x.values + corrections, rho * (delta + GAMMA * alive * _shifted(corrections))]


def _retrace_oracle(x: Any) -> Result:
    alive = 1 - x.terminated
    delta = x.rewards + GAMMA * alive * _shifted(x.values, x.last_values) - x.q_values
    decay = GAMMA * LAMBDA * alive * _shifted(x.importance.clamp(max=C_CLIP))
    return [x.q_values + scan(decay, delta)]


ESTIMATORS: tuple[Estimator, ...] = (
    Estimator(
        "puff_advantage",
        reads=("values", "rewards", "dones", "importance"),
        writes=1,
        call=lambda op, x, out: op(
            x.values, x.rewards, x.dones, x.importance, GAMMA, LAMBDA, RHO_CLIP, C_CLIP, out=out[0]
        ),
        oracle=_puff_oracle,
        grain_arrays=5,
    ),
    Estimator(
        "gae",
        reads=("rewards", "values", "terminated", "last_values"),
        writes=2,
        call=lambda op, x, out: op(
            x.rewards,
            x.values,
            x.terminated,
            last_values=x.last_values,
            gamma=GAMMA,
            gae_lambda=LAMBDA,
            time_major=x.layout == TIME,
            out=out,
        ),
        oracle=_gae_oracle,
        grain_arrays=5,
        layouts=(BATCH, TIME),
    ),
    Estimator(
        "vtrace",
        reads=("rewards", "values", "terminated", "importance", "last_values"),
        writes=2,
        call=lambda op, x, out: op(
            x.rewards,
            x.values,
            x.terminated,
            importance=x.importance,
            last_values=x.last_values,
            gamma=GAMMA,
            rho_clip=RHO_CLIP,
            c_clip=C_CLIP,
            out=out,
        ),
        oracle=_vtrace_oracle,
        grain_arrays=6,
    ),
    Estimator(
        "td_lambda",
        reads=("rewards", "values", "terminated", "last_values"),
        writes=1,
        call=lambda op, x, out: op(
            x.rewards,
            x.values,
            x.terminated,
            last_values=x.last_values,
            gamma=GAMMA,
            gae_lambda=LAMBDA,
            out=out[0],
        ),
        oracle=_td_lambda_oracle,
        grain_arrays=4,
    ),
    Estimator(
        "discounted_return",
        reads=("rewards", "terminated", "last_values"),
        writes=1,
        call=lambda op, x, out: op(
            x.rewards, x.terminated, last_values=x.last_values, gamma=GAMMA, out=out[0]
        ),
        oracle=_discounted_return_oracle,
        grain_arrays=4,
    ),
    Estimator(
        "delta_lambda",
        reads=("values", "rewards", "dones"),
        writes=1,
        call=lambda op, x, out: op(x.values, x.rewards, x.dones, GAMMA, LAMBDA, out=out[0]),
        oracle=_delta_lambda_oracle,
        grain_arrays=4,
    ),
    Estimator(
        "reverse_scan",
        reads=("scale", "shift"),
        writes=1,
        call=lambda op, x, out: op(x.scale, x.shift, out=out[0]),
        oracle=lambda x: [scan(x.scale, x.shift)],
        grain_arrays=3,
    ),
    Estimator(
        "retrace",
        reads=("rewards", "q_values", "values", "terminated", "importance", "last_values"),
        writes=1,
        call=lambda op, x, out: op(
            x.rewards,
            x.q_values,
            x.values,
            x.terminated,
            importance=x.importance,
            last_values=x.last_values,
            gamma=GAMMA,
            gae_lambda=LAMBDA,
            c_clip=C_CLIP,
            out=out[0],
        ),
        oracle=_retrace_oracle,
        grain_arrays=6,
    ),
)

#: What a complete hotloop has; those that are not there are named in every report.
WANTED = (
    "puff_advantage", "gae", "vtrace", "td_lambda", "discounted_return", "delta_lambda", "reverse_scan",
    "retrace",
)  # fmt: skip


def absent_estimators() -> dict[str, str]:
    """The estimators that are not measured, and why."""
    registered = {estimator.op for estimator in ESTIMATORS}
    absent = {}
    for name in WANTED:
        if not hasattr(ops, name):
            absent[name] = f"hotloop.ops has no {name}"
        elif name not in registered:
            absent[name] = "not registered in hotloop.bench.estimators"
    return absent

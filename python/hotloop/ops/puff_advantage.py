"""`puff_advantage`: the arrival-indexed, V-trace-clipped advantage of PufferLib and Metta."""

from __future__ import annotations

from torch import Tensor

from hotloop import _core
from hotloop.ops._register import native_face, register_estimator, require_tensor


def _allocate(values: Tensor, *_: object) -> Tensor:
    require_tensor("puff_advantage", "values", values)
    return values.new_empty(values.shape)


_ROAD = register_estimator(
    "puff_advantage",
    "Tensor values, Tensor rewards, Tensor dones, Tensor importance, float gamma, float gae_lambda, "
    "float rho_clip=1.0, float c_clip=1.0, Tensor? next_values=None, Tensor? next_rewards=None, "
    "Tensor? next_dones=None",
    ("Tensor(a!) out",),
    _core.puff_advantage,
    _allocate,
    per_row=("gamma", "gae_lambda"),
    on_request=("Tensor(b!)? returns", "Tensor(c!)? priorities", "Tensor(d!)? summary"),
)


@native_face(_core.puff_advantage)
def puff_advantage(
    values: Tensor,
    rewards: Tensor,
    dones: Tensor,
    importance: Tensor,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
    *,
    next_values: Tensor | None = None,
    next_rewards: Tensor | None = None,
    next_dones: Tensor | None = None,
    returns: Tensor | None = None,
    priorities: Tensor | None = None,
    summary: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Advantages of segments whose rewards and dones are arrival-indexed.

    `rewards[s, t]` and `dones[s, t]` arrive together with observation t: they are the outcome of action t-1,
    as PufferLib's and Metta's buffers hold them. With w = `importance`::

        delta[t] = min(w[t], rho_clip) * (r[t+1] + gamma * (1 - d[t+1]) * V[t+1] - V[t])
        A[t]     = delta[t] + gamma * gae_lambda * min(w[t], c_clip) * (1 - d[t+1]) * A[t+1]

    The last column is 0 unless what arrived at step T is given (`next_*`): then it is computed like every
    other. It is GAE (Schulman et al. 2016) with the clipped ratios of V-trace (Espeholt et al. 2018), as in
    PufferLib's `compute_puff_advantage`. NaN and inf propagate as the formula says, a NaN ratio too.

    Args:
        values: `[S, T]`, floating. The arithmetic is done in its dtype; in float32 for bfloat16 and float16,
            and the result is rounded once, as `.to()` rounds.
        rewards: `[S, T]`, floating.
        dones: `[S, T]`, bool, uint8 or floating: 1 where an episode ended.
        importance: `[S, T]`, floating: pi_new(a) / pi_old(a); ones for plain GAE.
        gamma: discount a step, in [0, 1]: a number, or `[S]` for one a segment.
        gae_lambda: in [0, 1], likewise.
        rho_clip, c_clip: upper limits of the ratio in delta and in the trace; `inf` for none.
        next_values, next_rewards, next_dones: `[S]`, all or none: what arrived at step T.
        returns: `[S, T]`, dtype of `values`, written to where given: A + V.
        priorities: `[S]`, dtype of `values`, written to where given: the sum of |A| of each segment, as
            `row_priorities` gives it.
        summary: `[6]`, float64, written to where given: see `AdvantageSummary`.
        out: `[S, T]`, dtype of `values`, memory of its own; reuse it to spare page faults.

    All tensors are read in place whatever their strides. Not differentiable.

    Returns:
        `out`, or a new tensor.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has an unsupported dtype.
        ValueError: shapes differ, a scalar is out of range, an input requires grad, or `out` overlaps an
            input.
    """
    if out is None:
        out = _allocate(values)
    native = _core.puff_advantage(
        values, rewards, dones, importance, gamma, gae_lambda, rho_clip, c_clip,
        next_values, next_rewards, next_dones, returns, priorities, summary, out,
    )  # fmt: skip
    if native is NotImplemented:
        _ROAD(
            values, rewards, dones, importance, gamma, gae_lambda, rho_clip, c_clip,
            next_values, next_rewards, next_dones, returns, priorities, summary, out,
        )  # fmt: skip
    return out

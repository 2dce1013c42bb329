"""`retrace`: Retrace(lambda) targets for action values, departure-indexed."""

from __future__ import annotations

from torch import Tensor

from hotloop import _core
from hotloop.ops._register import register_estimator, require_tensor


def _allocate(rewards: Tensor, q_values: Tensor, *_: object) -> Tensor:
    require_tensor("retrace", "q_values", q_values)
    return q_values.new_empty(q_values.shape)


_ROAD = register_estimator(
    "retrace",
    "Tensor rewards, Tensor q_values, Tensor values, Tensor terminated, Tensor? truncated, "
    "Tensor importance, Tensor last_values, Tensor? truncation_values, Tensor? valid, float gamma, "
    "float gae_lambda=1.0, float c_clip=1.0, bool time_major=False",
    ("Tensor(a!) out",),
    _core.retrace,
    _allocate,
    per_row=("gamma", "gae_lambda"),
)


def retrace(
    rewards: Tensor,
    q_values: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor | None = None,
    *,
    importance: Tensor,
    last_values: Tensor,
    truncation_values: Tensor | None = None,
    valid: Tensor | None = None,
    gamma: float | Tensor,
    gae_lambda: float | Tensor = 1.0,
    c_clip: float = 1.0,
    time_major: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Retrace(lambda) targets (Munos et al. 2016) for Q of the actions taken, departure-indexed.

    `values[n, t]` is the expected Q of observation t under the target policy, sum over a of pi(a) Q(o_t, a),
    as are `last_values` and `truncation_values` of theirs. With nextV as in `gae` (of `values`), w =
    `importance`, and `continues[t]` where neither an episode nor the row ends::

        delta[t]   = r[t] + gamma * nextV[t] - Q[t]
        x[t]       = delta[t] + gamma * gae_lambda * min(w[t+1], c_clip) * continues[t] * x[t+1]
        targets[t] = Q[t] + x[t]

    The ratio is that of the next action: Q[t] is of an action already taken, which needs no correction. With
        ratios of the same policy this is TD(lambda) for Q with expectations; with `gae_lambda` = 0 Expected
    Sarsa. An episode's end cuts exactly, and so does a coefficient of 0: not even NaN crosses it; else
    NaN and inf follow the formula.

    Args:
        rewards: `[N, T]` (`[T, N]` with `time_major`), floating.
        q_values: the same shape, floating: Q of the taken action. The arithmetic is done in its dtype; in
            float32 for bfloat16 and float16, and the result is rounded once, as `.to()` rounds.
        values: the same shape, floating; the first column is not used.
        terminated, truncated: the same shape, bool, uint8 or floating.
        importance: the same shape, floating: pi(a) / mu(a) of the taken action.
        last_values: `[N]`, expected Q of the observation after the last step.
        truncation_values: the same shape, that of the final observation where `truncated`.
        valid: the same shape; false marks a filler step: its target is Q, and the trace does not cross it.
        gamma: discount a step, in [0, 1]: a number, or `[N]` for one a row.
        gae_lambda: in [0, 1], likewise.
        c_clip: upper limit of the ratio; 1 in the paper.
        time_major: whether the first dimension is time.
        out: the same shape, dtype of `q_values`, memory of its own.

    Not differentiable.

    Returns:
        The targets, of the shape and dtype of `q_values`: `out`, or a new tensor.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has an unsupported dtype.
        ValueError: shapes differ, a scalar is out of range, an input requires grad, `out` overlaps an input,
            or `truncated` has true entries without `truncation_values`.
    """
    if out is None:
        out = _allocate(rewards, q_values)
    arguments = (
        rewards, q_values, values, terminated, truncated, importance, last_values, truncation_values, valid,
        gamma, gae_lambda, c_clip, time_major, out,
    )  # fmt: skip
    if _core.retrace(*arguments) is NotImplemented:
        _ROAD(*arguments)
    return out

"""`discounted_return`: bootstrapped discounted returns, departure-indexed."""

from __future__ import annotations

from torch import Tensor

from hotloop import _core
from hotloop.ops._register import register_estimator, require_tensor


def _allocate(rewards: Tensor, *_: object) -> Tensor:
    require_tensor("discounted_return", "rewards", rewards)
    return rewards.new_empty(rewards.shape)


_ROAD = register_estimator(
    "discounted_return",
    "Tensor rewards, Tensor terminated, Tensor? truncated, Tensor last_values, Tensor? truncation_values, "
    "Tensor? valid, float gamma, bool time_major=False",
    ("Tensor(a!) out",),
    _core.discounted_return,
    _allocate,
    per_row=("gamma",),
)


def discounted_return(
    rewards: Tensor,
    terminated: Tensor,
    truncated: Tensor | None = None,
    *,
    last_values: Tensor,
    truncation_values: Tensor | None = None,
    valid: Tensor | None = None,
    gamma: float | Tensor,
    time_major: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Discounted sums of the rewards to the episode's end, departure-indexed, bootstrapped where it is cut::

        G[t] = r[t]                                    where terminated[t]
        G[t] = r[t] + gamma * truncation_values[t]     where truncated[t]
        G[t] = r[t] + gamma * G[t+1]                   elsewhere, with G[T] = last_values

    Needs no values but those at which a row or an episode is cut (zeros for the bare sum). An episode's end
    cuts exactly: not even NaN crosses it; else NaN and inf follow the formula. For a differentiable one, see
    `td_lambda` with lambda = 1.

    Args:
        rewards: `[N, T]` (`[T, N]` with `time_major`), floating. The arithmetic is done in its dtype; in
            float32 for bfloat16 and float16, and the result is rounded once, as `.to()` rounds.
        terminated, truncated: the same shape, bool, uint8 or floating.
        last_values: `[N]`, V of the observation after the last step.
        truncation_values: the same shape, V of the final observation where `truncated`; not read elsewhere.
        valid: the same shape; false marks a filler step: its return is 0, and nothing crosses it.
        gamma: discount a step, in [0, 1]: a number, or `[N]` for one a row.
        time_major: whether the first dimension is time.
        out: the same shape, dtype of `rewards`, memory of its own.

    Not differentiable.

    Returns:
        `G`, of the shape and dtype of `rewards`: `out`, or a new tensor.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has an unsupported dtype.
        ValueError: shapes differ, gamma is out of range, an input requires grad, `out` overlaps an input, or
            `truncated` has true entries without `truncation_values`.
    """
    if out is None:
        out = _allocate(rewards)
    arguments = (
        rewards, terminated, truncated, last_values, truncation_values, valid, gamma, time_major, out,
    )  # fmt: skip
    if _core.discounted_return(*arguments) is NotImplemented:
        _ROAD(*arguments)
    return out

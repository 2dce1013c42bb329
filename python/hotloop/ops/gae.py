"""`gae`: generalised advantage estimation, departure-indexed, with truncation done right."""

from __future__ import annotations

from torch import Tensor

from hotloop import _core
from hotloop.ops._register import register_estimator, require_tensor


def _allocate(rewards: Tensor, values: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    require_tensor("gae", "values", values)
    return values.new_empty(values.shape), values.new_empty(values.shape)


_ROAD = register_estimator(
    "gae",
    "Tensor rewards, Tensor values, Tensor terminated, Tensor? truncated, Tensor last_values, "
    "Tensor? truncation_values, Tensor? valid, float gamma, float gae_lambda, bool time_major=False",
    ("Tensor(a!) advantages", "Tensor(b!) returns"),
    _core.gae,
    _allocate,
    per_row=("gamma", "gae_lambda"),
    on_request=("Tensor(c!)? priorities", "Tensor(d!)? summary"),
)


def gae(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor | None = None,
    *,
    last_values: Tensor,
    truncation_values: Tensor | None = None,
    valid: Tensor | None = None,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
    time_major: bool = False,
    priorities: Tensor | None = None,
    summary: Tensor | None = None,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of rows whose rewards and flags are departure-indexed (Schulman et al. 2016).

    `rewards[n, t]`, `terminated[n, t]` and `truncated[n, t]` are the outcome of action t, as Gymnasium,
    CleanRL, Stable-Baselines3 and TorchRL hold them::

        nextV[t]  = 0 if terminated[t], truncation_values[t] if truncated[t], else V[t+1] (last_values at T-1)
        delta[t]  = r[t] + gamma * nextV[t] - V[t]
        A[t]      = delta[t] + gamma * gae_lambda * (not terminated[t] and not truncated[t]) * A[t+1]
        return[t] = A[t] + V[t]

    An episode's end cuts the trace exactly: not even NaN crosses it. An episode that hit a time limit is
    bootstrapped with the value of its final observation (Pardo et al. 2018), which only the caller knows; so
    `truncated` with a true entry and no `truncation_values` is an error and not a guess.

    Args:
        rewards: `[N, T]` (`[T, N]` with `time_major`), floating.
        values: the same shape, floating. The arithmetic is done in its dtype; in float32 for bfloat16 and
            float16, and the results are rounded once, as `.to()` rounds.
        terminated, truncated: the same shape, bool, uint8 or floating.
        last_values: `[N]`, V of the observation after the last step.
        truncation_values: the same shape, V of the final observation where `truncated`; not read elsewhere.
        valid: the same shape; false marks a filler step (padding, Gymnasium's NEXT_STEP autoreset): its
            advantage is 0, its return V, and the trace does not cross it.
        gamma: discount a step, in [0, 1]: a number, or `[N]` for one a row.
        gae_lambda: in [0, 1], likewise.
        time_major: whether the first dimension is time.
        priorities: `[N]`, dtype of `values`, written to where given: the sum of |A| of each row, as
            `row_priorities` gives it.
        summary: `[6]`, float64, written to where given: see `AdvantageSummary`.
        out: `(advantages, returns)` to write into, dtype of `values`, memory of their own.

    All tensors are read in place whatever their strides. Not differentiable.

    Returns:
        `(advantages, returns)`, both of the shape and dtype of `values`.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has an unsupported dtype.
        ValueError: shapes differ, a scalar is out of range, an input requires grad, `out` overlaps an input,
            or `truncated` has true entries without `truncation_values`.
    """
    advantages, returns = _allocate(rewards, values) if out is None else out
    native = _core.gae(
        rewards, values, terminated, truncated, last_values, truncation_values, valid, gamma, gae_lambda,
        time_major, priorities, summary, advantages, returns,
    )  # fmt: skip
    if native is NotImplemented:
        _ROAD(
            rewards, values, terminated, truncated, last_values, truncation_values, valid, gamma, gae_lambda,
            time_major, priorities, summary, advantages, returns,
        )  # fmt: skip
    return advantages, returns


def gae_of_next_values(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float,
    gae_lambda: float,
    time_major: bool,
    out: tuple[Tensor, Tensor],
) -> bool:
    """`gae` of rollouts that hold V of the observation each action led to, as TorchRL's do::

        delta[t]  = r[t] + gamma * (not terminated[t]) * next_values[t] - V[t]
        A[t]      = delta[t] + gamma * gae_lambda * (not done[t]) * A[t+1]

    For integrations; the arguments are those of `gae`, on the CPU, and bool flags. `[N, T, 1]` is as good as
    `[N, T]`.

    Returns:
        Whether it was done: not where a step is terminated but not done, nor for tensor subclasses and flags
        of another dtype.
    """
    return (
        _core.gae_of_next_values(
            rewards, values, next_values, terminated, done, gamma, gae_lambda, time_major, *out
        )
        is not NotImplemented
    )

"""`vtrace`: IMPALA's off-policy targets and policy-gradient advantages, departure-indexed."""

from __future__ import annotations

from torch import Tensor

from hotloop import _core
from hotloop.ops._register import register_estimator, require_tensor


def _allocate(rewards: Tensor, values: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    require_tensor("vtrace", "values", values)
    return values.new_empty(values.shape), values.new_empty(values.shape)


_ROAD = register_estimator(
    "vtrace",
    "Tensor rewards, Tensor values, Tensor terminated, Tensor? truncated, Tensor importance, "
    "Tensor last_values, Tensor? truncation_values, Tensor? valid, float gamma, float gae_lambda=1.0, "
    "float rho_clip=1.0, float c_clip=1.0, float pg_rho_clip=1.0, bool time_major=False",
    ("Tensor(a!) targets", "Tensor(b!) pg_advantages"),
    _core.vtrace,
    _allocate,
    per_row=("gamma", "gae_lambda"),
)


def vtrace(
    rewards: Tensor,
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
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
    pg_rho_clip: float | None = None,
    time_major: bool = False,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """V-trace (Espeholt et al. 2018, IMPALA) of departure-indexed rows, with a trace parameter lambda.

    With nextV as in `gae`, w = `importance`, and `continues[t]` where neither an episode nor the row ends::

        delta[t] = r[t] + gamma * nextV[t] - V[t]
        decay[t] = gamma * gae_lambda * continues[t]
        x[t]     = min(w[t], rho_clip) * delta[t] + decay[t] * min(w[t], c_clip) * x[t+1]
        targets[t]       = V[t] + x[t]
        pg_advantages[t] = min(w[t], pg_rho_clip) * (delta[t] + decay[t] * x[t+1])

    With `gae_lambda` = 1 the last line is IMPALA's r[t] + gamma * targets[t+1] - V[t]; below 1 it looks
    ahead to the mixture of target and V that the targets themselves are built on, and with all ratios 1 both
    are exactly `gae`'s. An episode's end cuts exactly, and so does a coefficient of 0: not even NaN crosses
    it; else NaN and inf follow the formula, a NaN ratio too.

    Args:
        rewards: `[N, T]` (`[T, N]` with `time_major`), floating.
        values: the same shape, floating. The arithmetic is done in its dtype; in float32 for bfloat16 and
            float16, and the results are rounded once, as `.to()` rounds.
        terminated, truncated: the same shape, bool, uint8 or floating.
        importance: the same shape, floating: pi(a) / mu(a), target over behaviour policy.
        last_values: `[N]`, V of the observation after the last step.
        truncation_values: the same shape, V of the final observation where `truncated`; not read elsewhere.
        valid: the same shape; false marks a filler step: its target is V, its advantage 0, and the trace does
            not cross it.
        gamma: discount a step, in [0, 1]: a number, or `[N]` for one a row.
        gae_lambda: in [0, 1], likewise.
        rho_clip, c_clip: upper limits of the ratio in the TD errors and in the trace; `inf` for none.
        pg_rho_clip: that of the ratio in the policy gradient; None: `rho_clip`.
        time_major: whether the first dimension is time.
        out: `(targets, pg_advantages)` to write into, dtype of `values`, memory of their own.

    Not differentiable.

    Returns:
        `(targets, pg_advantages)`, both of the shape and dtype of `values`.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor` or has an unsupported dtype.
        ValueError: shapes differ, a scalar is out of range, an input requires grad, `out` overlaps an input,
            or `truncated` has true entries without `truncation_values`.
    """
    targets, pg_advantages = _allocate(rewards, values) if out is None else out
    arguments = (
        rewards, values, terminated, truncated, importance, last_values, truncation_values, valid, gamma,
        gae_lambda, rho_clip, c_clip, rho_clip if pg_rho_clip is None else pg_rho_clip, time_major,
        targets, pg_advantages,
    )  # fmt: skip
    if _core.vtrace(*arguments) is NotImplemented:
        _ROAD(*arguments)
    return targets, pg_advantages

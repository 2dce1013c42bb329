"""`importance_ratio`: how much more likely an action has become since it was taken."""

from __future__ import annotations

from torch import Tensor

from hotloop import _core
from hotloop.ops._register import native_face, register, require_tensor


def _allocate(new_log_prob: Tensor, *_: object) -> Tensor:
    require_tensor("importance_ratio", "new_log_prob", new_log_prob)
    return new_log_prob.new_empty(new_log_prob.shape)


_OUT_OP = register(
    "importance_ratio",
    "Tensor new_log_prob, Tensor old_log_prob, Tensor? valid=None, float invalid=1.0",
    ("Tensor(a!) out",),
    _core.importance_ratio,
    _allocate,
)


@native_face(_core.importance_ratio)
def importance_ratio(
    new_log_prob: Tensor,
    old_log_prob: Tensor,
    valid: Tensor | None = None,
    invalid: float = 1.0,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """`exp(clamp(new_log_prob - old_log_prob, -10, 10))`, `[B, T]`: the importance weights of V-trace
    (Espeholt et al. 2018) and the probability ratios of PPO (Schulman et al. 2017), with the clamp that Metta
    puts before the exponential.

    Not differentiable; `hotloop.ops.ppo_loss` makes its ratios, and their gradients, itself.

    Args:
        new_log_prob: `[B, T]`, float32 or float64: log probabilities of the actions now.
        old_log_prob: `[B, T]`, floating: when they were taken.
        valid: `[B, T]`, bool, uint8 or floating: false marks a step that counts for nothing.
        invalid: the ratio of such a step, whatever its log probabilities are. With 0 an advantage op cuts its
            trace there.
        out: `[B, T]`, dtype of `new_log_prob`.

    Raises:
        TypeError, ValueError: see `hotloop.ops.puff_advantage`.
    """
    if out is None:
        out = _allocate(new_log_prob)
    if _core.importance_ratio(new_log_prob, old_log_prob, valid, invalid, out) is NotImplemented:
        _OUT_OP(new_log_prob, old_log_prob, valid, invalid, out=out)
    return out

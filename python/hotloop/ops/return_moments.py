"""`return_moments`: what the explained variance of a rollout's values is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from hotloop import _core
from hotloop.ops._register import native_face, register, require_tensor


def _allocate(values: Tensor, *_: object) -> Tensor:
    require_tensor("return_moments", "values", values)
    return values.new_empty(5, dtype=torch.float64)


_OUT_OP = register(
    "return_moments",
    "Tensor values, Tensor advantages, Tensor? valid=None",
    ("Tensor(a!) out",),
    _core.return_moments,
    _allocate,
)


@native_face(_core.return_moments)
def return_moments(
    values: Tensor, advantages: Tensor, valid: Tensor | None = None, *, out: Tensor | None = None
) -> Tensor:
    """Count, mean and sum of squared deviations of the returns, and the last two of the advantages.

    With the returns ``R = advantages + values`` what is left of them once the values are known is the
    advantages, so that the explained variance of the values, ``1 - Var(R - V) / Var(R)``, is
    ``1 - moments[4] / moments[2]``. Several parts of a rollout are joined as by Chan, Golub and LeVeque 1983.

    Args:
        values: `[S, T]`, floating, any strides; bfloat16 and float16 are widened to float32.
        advantages: `[S, T]`, floating.
        valid: `[S, T]`, bool, uint8 or floating: false marks a step that counts for nothing, whatever stands
            there.
        out: `[5]`, float64, contiguous.

    Returns:
        float64 `[5]`: number of valid steps, mean and sum of squared deviations of `R`, mean and sum of
        squared deviations of the advantages; zeros where no step is valid. Sums are float64, in an order that
        depends on nothing but the shape. NaN where a valid step is not finite.

    Raises:
        TypeError, ValueError: see `hotloop.ops.puff_advantage`.
    """
    if out is None:
        out = _allocate(values)
    if _core.return_moments(values, advantages, valid, out) is NotImplemented:
        _OUT_OP(values, advantages, valid, out=out)
    return out

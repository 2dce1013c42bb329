"""`row_priorities`: one sampling priority a segment from its advantages."""

from __future__ import annotations

from torch import Tensor

from hotloop import _core
from hotloop.ops._register import native_face, register, require_tensor


def _allocate(advantages: Tensor, *_: object) -> Tensor:
    require_tensor("row_priorities", "advantages", advantages)
    return advantages.new_empty(advantages.shape[:1])


_OUT_OP = register(
    "row_priorities",
    "Tensor advantages, float alpha=1.0",
    ("Tensor(a!) out",),
    _core.row_priorities,
    _allocate,
)


@native_face(_core.row_priorities)
def row_priorities(advantages: Tensor, alpha: float = 1.0, *, out: Tensor | None = None) -> Tensor:
    """`(sum_t |A[i, t]|) ** alpha` for every segment i.

    It is how PufferLib and Metta prioritise, after prioritised experience replay (Schaul et al. 2016).

    Args:
        advantages: `[S, T]`, floating, any strides; bfloat16 and float16 are summed in float32.
        alpha: 0 for uniform, 1 for proportional; >= 0.
        out: `[S]`, dtype of `advantages`.

    Returns:
        `[S]`, >= 0. A segment whose sum or power is NaN, infinite or too large for the dtype counts as 0.

    Raises:
        TypeError, ValueError: see `hotloop.ops.puff_advantage`.
    """
    if out is None:
        out = _allocate(advantages)
    if _core.row_priorities(advantages, alpha, out) is NotImplemented:
        _OUT_OP(advantages, alpha, out=out)
    return out

"""`SamplePlan`: the rows of a minibatch drawn and gathered in one native call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hotloop import _core
from hotloop.ops.joined_calls import Slot, join_calls

_PRIORITIES, _SEED, _EPOCH = Slot("priorities"), Slot("seed"), Slot("epoch")
_MINIBATCH, _BETA = Slot("minibatch"), Slot("beta")


class SamplePlan:
    """`sample_segments` and `gather` for the minibatches of a buffer that stays where it is.

    Args:
        sources: tensors `[S, ...]` with one common S.
        out: for each a tensor `[k, ...]`, overwritten by every call.
        indices, weights: `[k]`, int64 and float32: where the draw is written.
        law: as `sample_segments`.

    Raises:
        ValueError: without sources.
    """

    def __init__(
        self, sources: Sequence[Tensor], out: Sequence[Tensor], *, indices: Tensor, weights: Tensor, law: str
    ) -> None:
        sources, out = list(sources), list(out)
        self._given = sources, out, indices, weights, law
        if not sources:
            raise ValueError("SamplePlan: sources must be one tensor at least, got none")
        segments, count = len(sources[0]), len(indices)
        draw = (
            _core.sample_segments, _PRIORITIES, segments, count, law, _SEED, _EPOCH, _MINIBATCH, _BETA,
            indices, weights,
        )  # fmt: skip
        self._run = join_calls(
            "SamplePlan",
            (draw, (_core.gather, sources, indices, out)),
            (_PRIORITIES, _SEED, _EPOCH, _MINIBATCH, _BETA),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, self._given

    def gather(self, priorities: Tensor | None, seed: int, epoch: int, minibatch: int, beta: float) -> None:
        """Draw the rows of a minibatch and copy them. Arguments as of `sample_segments`.

        Raises:
            TypeError, ValueError, IndexError: as the two ops.
        """
        self._run(priorities, seed, epoch, minibatch, beta)


def _restore(
    sources: list[Tensor], out: list[Tensor], indices: Tensor, weights: Tensor, law: str
) -> SamplePlan:
    return SamplePlan(sources, out, indices=indices, weights=weights, law=law)

"""`SamplePlan`: the rows of a minibatch drawn and gathered in one native call."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hotloop import _core
from hotloop.ops.joined_calls import Slot, join_calls

_MINIBATCH = Slot("minibatch")


class SamplePlan:
    """`sample_segments` and `gather` for the minibatches of one epoch, of which only the number changes.

    Args:
        sources: tensors `[S, ...]` with one common S.
        out: for each a tensor `[k, ...]`, overwritten by every call.
        indices, weights: `[k]`, int64 and float32: where the draw is written.
        priorities, law, seed, epoch, beta: as `sample_segments`.
    """

    def __init__(
        self,
        sources: Sequence[Tensor],
        out: Sequence[Tensor],
        *,
        indices: Tensor,
        weights: Tensor,
        priorities: Tensor | None,
        law: str,
        seed: int,
        epoch: int,
        beta: float,
    ) -> None:
        sources, out = list(sources), list(out)
        if not sources:
            raise ValueError("SamplePlan: sources must be one tensor at least, got none")
        segments, count = len(sources[0]), len(indices)
        draw = (
            _core.sample_segments, priorities, segments, count, law, seed, epoch, _MINIBATCH, beta, indices,
            weights,
        )  # fmt: skip
        self._run = join_calls("SamplePlan", (draw, (_core.gather, sources, indices, out)), (_MINIBATCH,))

    def gather(self, minibatch: int) -> None:
        """Draw the rows of minibatch number `minibatch` and copy them.

        Raises:
            TypeError, ValueError, IndexError: as the two ops.
        """
        self._run(minibatch)

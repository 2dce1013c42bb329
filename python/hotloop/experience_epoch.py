"""The minibatches of one update epoch, of the entries that a loop needs: what stays the same is bound once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hotloop import ops
from hotloop.experience_strata import rank_seed
from hotloop.segment_sampler import importance_exponent
from hotloop.spec import Key

if TYPE_CHECKING:
    from hotloop.experience_sampling import MinibatchSampler


class EpochRows:
    """Draws what `MinibatchSampler.sample` draws with `reuse`, and takes only `leaves`, `[S, ...]` each.

    Attributes
    ----------
    leaves
        What was taken last, `[B, ...]` each: memory that the next minibatch overwrites.
    weights
        float32 `[B, T]`, likewise.
    indices
        int64 `[B]`, likewise.
    views
        Whether the entries of more than one number a step are views of the buffer instead, new ones at every
        minibatch: rows taken in order.
    """

    def __init__(
        self,
        sampler: MinibatchSampler,
        law: str,
        leaves: Mapping[Key, Tensor],
        advantages: Tensor,
        *,
        config: Any,
        epoch: int,
        total_epochs: int,
        seed: int,
        draw: int,
    ) -> None:
        self._sampler, self._law, self._seed, self._draw = sampler, law, seed, draw
        self.views = law == "sequential"
        self._wide = {key: leaf for key, leaf in leaves.items() if leaf.dim() > 2} if self.views else {}
        copied = {key: leaf for key, leaf in leaves.items() if key not in self._wide}
        self._sources = list(copied.values())
        out = {key: sampler.kept(key, leaf) for key, leaf in copied.items()}
        self._out = list(out.values())
        self.leaves: dict[Key, Tensor] = dict(out)
        self.weights = sampler.ones
        self._plan: ops.SamplePlan | None = None
        if law in ("sequential", "stratified"):
            self.indices = sampler.in_order(0)[1]
            return
        alpha, beta, weighted = 0.0, 1.0, law != "permutation"
        if weighted:
            alpha = config.prio_alpha
            schedule = getattr(config, "beta_schedule", "reference")
            beta = importance_exponent(schedule, config.prio_beta0, alpha, epoch, total_epochs)
        segments = sampler.segments
        segments.law, segments.alpha = law, alpha
        self.indices, weights = segments.memory
        if weighted:
            self.weights = weights.unsqueeze(1).expand(self.weights.shape)
        self._plan = ops.SamplePlan(
            self._sources,
            self._out,
            indices=self.indices,
            weights=weights,
            priorities=segments.priorities(advantages) if weighted else None,
            law=law,
            seed=rank_seed(seed, sampler.rank),
            epoch=draw,
            beta=beta,
        )

    def take(self, mb_idx: int) -> None:
        """Draw minibatch `mb_idx` and copy its rows."""
        if self._plan is not None:
            self._plan.gather(mb_idx)
            return
        if self._law == "sequential":
            rows, self.indices = self._sampler.in_order(mb_idx)
            self.leaves.update((key, leaf[rows]) for key, leaf in self._wide.items())
        else:
            self.indices = self._sampler.strata().draw(mb_idx, self._seed, self._draw)
        ops.gather(self._sources, self.indices, out=self._out)

"""The minibatches of one update epoch, of the entries that a loop needs, bound once to where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hotloop import ops
from hotloop.experience_strata import rank_seed
from hotloop.segment_sampler import configured_exponent
from hotloop.spec import Key

if TYPE_CHECKING:
    from hotloop.experience_sampling import MinibatchSampler


class EpochRows:
    """Draws what `MinibatchSampler.sample` draws with `reuse`, and takes only `leaves`, `[S, ...]` each and
    in host memory. `begin`, then `take` for each minibatch, which copies the rows of the leaf `early` alone:
    those of the others are gathered by whoever needs them, so that the network's pass between does not push
    them out of the caches.

    Attributes
    ----------
    given
        The leaves.
    leaves
        What was taken last, `[B, ...]` each: memory that the next minibatch overwrites.
    later
        The leaves that `take` leaves out, and the memory that their rows `indices` are to be gathered into.
    weights
        float32 `[B, T]`, likewise.
    indices
        int64 `[B]`, likewise.
    views
        Whether the entries of more than one number a step are views of the buffer instead, new ones at every
        minibatch: rows taken in order.
    """

    def __init__(self, sampler: MinibatchSampler, law: str, leaves: Mapping[Key, Tensor], early: Key) -> None:
        self._sampler, self._law, self.given = sampler, law, dict(leaves)
        self.views = law == "sequential"
        self._wide = {key: leaf for key, leaf in leaves.items() if leaf.dim() > 2} if self.views else {}
        copied = {key: leaf for key, leaf in leaves.items() if key not in self._wide}
        out = {key: sampler.kept(key, leaf) for key, leaf in copied.items()}
        first = [early] if early in copied else []
        self._sources, self._out = [copied[key] for key in first], [out[key] for key in first]
        rest = [key for key in copied if key not in first]
        self.later = [copied[key] for key in rest], [out[key] for key in rest]
        self.leaves: dict[Key, Tensor] = dict(out)
        self.weights = sampler.ones
        self._plan: ops.SamplePlan | None = None
        self._draws: tuple[Tensor | None, int, int] = None, 0, 0
        self._beta = 1.0
        if law in ("sequential", "stratified"):
            self.indices = sampler.in_order(0)[1]
            return
        self.indices, weights = sampler.segments.memory
        if law != "permutation":
            self.weights = weights.unsqueeze(1).expand(self.weights.shape)
        self._plan = ops.SamplePlan(self._sources, self._out, indices=self.indices, weights=weights, law=law)

    def serves(self, law: str, leaves: Mapping[Key, Tensor]) -> bool:
        """Whether it is bound to these leaves."""
        given = self.given
        return (
            law == self._law
            and len(leaves) == len(given)
            and all(key in given and given[key] is leaf for key, leaf in leaves.items())
        )

    def begin(
        self, advantages: Tensor, *, config: Any, epoch: int, total_epochs: int, seed: int, draw: int
    ) -> None:
        """Before the minibatches of an update epoch."""
        if self._plan is None:
            self._draws = None, seed, draw
            return
        priorities = None
        if self._law != "permutation":
            self._beta = configured_exponent(config, epoch, total_epochs)
            segments = self._sampler.segments
            segments.alpha = config.prio_alpha
            priorities = segments.priorities(advantages)
        self._draws = priorities, rank_seed(seed, self._sampler.rank), draw

    def take(self, mb_idx: int) -> None:
        """Draw minibatch `mb_idx` and copy its rows of the leaf `early`."""
        priorities, seed, draw = self._draws
        if self._plan is not None:
            self._plan.gather(priorities, seed, draw, mb_idx, self._beta)
            return
        if self._law == "sequential":
            rows, self.indices = self._sampler.in_order(mb_idx)
            self.leaves.update((key, leaf[rows]) for key, leaf in self._wide.items())
        else:
            self.indices = self._sampler.strata().draw(mb_idx, seed, draw)
        if self._sources:
            ops.gather(self._sources, self.indices, out=self._out)

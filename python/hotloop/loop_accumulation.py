"""What the minibatches of one optimizer step must know of each other, so that k small ones equal a large one.

Two things in a loss are not sums over entries: the mean that it is, and the normalisation of its advantages.
So the loop looks through a group of minibatches before it trains on the first: it counts their valid entries,
by which each part's loss is weighted, and, where a loss normalises advantages, finds the moments of those of
the whole group. They depend on the policy's present ratios, so that costs one more forward pass, without a
graph: memory is what accumulation is there to save, and only graphs take it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop.entries import set_entries
from hotloop.losses import formulas, ranks


class Group(NamedTuple):
    """A group of k minibatches.

    ``weights``: float64 scalars, what each part counts: its share of the group's valid entries (times the
    number of ranks, whose gradients are averaged). ``moments``: float64 ``[2]``, mean and sample standard
    deviation of the group's advantages over valid entries of all ranks; None where no loss normalises.
    """

    weights: list[Tensor]
    moments: Tensor | None

    def share_moments(self, shared: TensorDictBase) -> None:
        """Hand the moments to the losses: ``shared["advantage_moments"]`` ``[B, T, 2]``."""
        if self.moments is not None:
            set_entries(shared, {"advantage_moments": self.moments.expand(*shared.batch_size, 2)})


def normalizes_advantages(losses: Mapping[str, Any]) -> bool:
    """Whether a loss's configuration has `norm_adv` switched on."""
    configs = (getattr(loss, "cfg", None) for loss in losses.values())
    return any(getattr(config, "norm_adv", False) for config in configs)


class Drawn(NamedTuple):
    """A minibatch: what the losses share, its rows of the arrivals, and a recurrent policy's keywords."""

    shared: TensorDictBase
    columns: list[Tensor]
    recurrent: dict[str, Any] | None


def survey(parts: Iterable[Drawn], advantages_of: Callable[[Drawn], Tensor] | None) -> Group:
    """Look through the minibatches `parts` of one optimizer step, each of which is read before the next is
    drawn.

    `advantages_of` gives the policy gradient's advantages `[B, T]` of one; None where nobody normalises them.
    """
    counts, moments = [], []
    for drawn in parts:
        valid = drawn.shared["sampled_mb"].get("valid", None)
        valid = None if valid is None else valid.bool()
        indices = drawn.shared["indices"]
        entries = torch.full((), float(indices.numel()), dtype=torch.float64, device=indices.device)
        counts.append(entries if valid is None else valid.sum(dtype=torch.float64))
        if advantages_of is not None:
            with torch.no_grad():
                moments.append(formulas.advantage_moments(advantages_of(drawn), valid))
    total = ranks.rank_mean(torch.stack(counts).sum()).clamp_min(1.0)
    return Group(
        [count / total for count in counts],
        formulas.mean_and_std(torch.stack(moments)) if moments else None,
    )

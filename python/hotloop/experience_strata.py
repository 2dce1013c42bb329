"""Stratified minibatches: random, and the same whether one process holds the rows or several.

The S rows of a rollout are S / M blocks of M neighbours, where M is the number of minibatches. Each update
epoch puts every block into a random order of its own, and minibatch m takes row number m of each. So every
row comes once an epoch, a minibatch holds neighbours (agents that act alike, say) never twice, and where a
process holds whole blocks it finds its part of each minibatch among its own rows.

Row k A + i of a rollout is segment k of agent i (A agents that all act in every step). Of N processes number
r holds the agents r A / N to (r + 1) A / N; its blocks are whole ones when M divides A / N.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hotloop.devices import moved

_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio: multiples of it are spread evenly
_BITS = (1 << 64) - 1


def rank_seed(seed: int, rank: int) -> int:
    """Key of what rank draws for itself alone: another one for each, and `seed` for rank 0."""
    mixed = (seed + rank * _GOLDEN) & _BITS
    return mixed if mixed < 1 << 63 else mixed - (1 << 64)


class Strata:
    """Draws the rows of one process.

    Args:
        segments, minibatch_segments, agents: S, rows of a minibatch, and A, all of this process.
        rank, world_size: which of how many processes of these sizes it is.
        device: of the indices.

    Raises:
        ValueError: several processes, and blocks that none of them holds whole.
    """

    def __init__(
        self,
        segments: int,
        minibatch_segments: int,
        agents: int,
        rank: int,
        world_size: int,
        device: torch.device,
    ) -> None:
        self.rank, self.world_size = rank, world_size
        self._device = device
        self._depth = depth = segments // minibatch_segments  # M
        self._blocks = minibatch_segments * world_size
        if world_size == 1:
            numbers = torch.arange(minibatch_segments)
        elif segments % agents or agents % depth:
            raise ValueError(
                f"Experience.sample: for the method 'stratified' the agents of each of {world_size} "
                f"processes must be a multiple of the {depth} minibatches and divide {segments} segments, "
                f"got {agents}"
            )
        else:
            own = agents // depth  # blocks of this process in one slab of a segment an agent
            slabs = torch.arange(segments // agents).unsqueeze(1)
            numbers = (slabs * own * world_size + rank * own + torch.arange(own)).flatten()
        self._numbers = numbers  # of this process's blocks among those of all
        self._key: tuple[int, int] | None = None
        self._rows = torch.empty(0)

    def draw(self, minibatch: int, seed: int, epoch: int) -> Tensor:
        """Rows of this process, int64 ``[minibatch_segments]``; keyed by seed and epoch alone."""
        if self._key != (seed, epoch):
            generator = torch.Generator().manual_seed(rank_seed(seed, epoch + 1))
            race = torch.rand(self._blocks, self._depth, dtype=torch.float64, generator=generator)
            order = race[self._numbers].argsort(dim=1, stable=True)
            first = torch.arange(len(order)).unsqueeze(1) * self._depth
            self._rows = moved((first + order).T.contiguous(), self._device)
            self._key = seed, epoch
        return self._rows[minibatch % self._depth].clone()

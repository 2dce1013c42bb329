"""Minibatches of an Experience: which rows, and how they are taken out of the buffer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict
from torch import Tensor

from hotloop import ops
from hotloop.spec import Key, nest

if TYPE_CHECKING:
    from hotloop.experience import Experience


class MinibatchSampler:
    """Draws and gathers the minibatches of one experience; its public face is `Experience.sample`."""

    def __init__(self, experience: Experience) -> None:
        self._experience = experience
        self._batch_size = torch.Size((experience.minibatch_segments, experience.bptt_horizon))
        self._sequential_idx_cache: dict[int, Tensor] = {}
        self._ones = torch.ones(self._batch_size, dtype=torch.float32, device=experience.device)
        self._memory: dict[Key, Tensor] = {}
        self._priorities: tuple[Tensor, int, float, Tensor] | None = None

    @staticmethod
    def beta(prio_alpha: float, prio_beta0: float, epoch: int, total_epochs: int) -> float:
        """Exponent of the importance weights: from `prio_beta0`, growing linearly by `(1 - prio_beta0) *
        prio_alpha` over `total_epochs` epochs (the schedule of PufferLib and Metta), but never above 1,
        where the correction is complete."""
        return min(1.0, prio_beta0 + (1.0 - prio_beta0) * prio_alpha * epoch / total_epochs)

    def sample(
        self,
        mb_idx: int,
        advantages: Tensor,
        *,
        config: Any,
        epoch: int,
        total_epochs: int,
        seed: int,
        draw: int,
        reuse: bool,
    ) -> TensorDict:
        """See `Experience.sample`."""
        experience = self._experience
        expected = (experience.segments, experience.bptt_horizon)
        if advantages.shape != expected:
            raise ValueError(
                f"Experience.sample: advantages must be {list(expected)}, got {list(advantages.shape)}"
            )
        weights = self._ones
        if config.method == "sequential" or (config.method == "prioritized" and config.prio_alpha <= 0.0):
            minibatch, indices = self.sequential(mb_idx)
            chosen = advantages[self._rows(mb_idx)].clone()
        elif config.method == "permutation":
            indices, _ = self._draw(mb_idx, "permutation", None, 1.0, seed, draw)
            minibatch = self.gather(indices, reuse)
            (chosen,) = ops.gather([advantages], indices)
        elif config.method == "prioritized":
            beta = self.beta(config.prio_alpha, config.prio_beta0, epoch, total_epochs)
            minibatch, indices, weights = self.prioritized(
                mb_idx, advantages, alpha=config.prio_alpha, beta=beta, seed=seed, draw=draw, reuse=reuse
            )
            (chosen,) = ops.gather([advantages], indices)
        else:
            raise ValueError(
                "Experience.sample: the method must be 'sequential', 'permutation' or 'prioritized', got "
                f"{config.method!r}"
            )
        return TensorDict(
            {
                "prio_weights": weights,
                "sampled_mb": minibatch,
                "indices": indices.unsqueeze(1).expand(self._batch_size),
                "advantages": chosen,
            },
            batch_size=self._batch_size,
            device=experience.device,
        )

    def sequential(self, mb_idx: int) -> tuple[TensorDict, Tensor]:
        """Rows in order. Wide entries are views; columns of one number per step are copied, because losses
        write new values of them into the buffer (`update`) while the minibatch, and its graph, are still in
        use."""
        rows = self._rows(mb_idx)
        leaves = {key: leaf[rows] for key, leaf in self._leaves().items()}
        minibatch = {key: leaf.clone() if leaf.dim() == 2 else leaf for key, leaf in leaves.items()}
        indices = self._sequential_idx_cache.get(rows.start)
        if indices is None:
            indices = torch.arange(rows.start, rows.stop, device=self._experience.device)
            self._sequential_idx_cache[rows.start] = indices
        return self._assemble(minibatch), indices

    def prioritized(
        self, mb_idx: int, advantages: Tensor, *, alpha: float, beta: float, seed: int, draw: int, reuse: bool
    ) -> tuple[TensorDict, Tensor, Tensor]:
        """Rows by the law `successive`, with weights `(S p) ** -beta`, expanded to [B, T]."""
        if alpha <= 0.0:
            return *self.sequential(mb_idx), self._ones
        priorities = self._row_priorities(advantages, alpha)
        indices, weights = self._draw(mb_idx, "successive", priorities, beta, seed, draw)
        return self.gather(indices, reuse), indices, weights.unsqueeze(1).expand(self._batch_size)

    def gather(self, indices: Tensor, reuse: bool) -> TensorDict:
        """A copy of the rows `indices` of every entry; into memory kept for the purpose when `reuse`."""
        leaves = self._leaves()
        out = [self._kept(key, leaf) for key, leaf in leaves.items()] if reuse else None
        copies = ops.gather(list(leaves.values()), indices, out=out)
        return self._assemble(dict(zip(leaves, copies, strict=True)))

    def _rows(self, mb_idx: int) -> slice:
        first = mb_idx % self._experience.num_minibatches * self._experience.minibatch_segments
        return slice(first, first + self._experience.minibatch_segments)

    def _draw(
        self, mb_idx: int, law: str, priorities: Tensor | None, beta: float, seed: int, draw: int
    ) -> tuple[Tensor, Tensor]:
        indices, weights = ops.sample_segments(
            priorities,
            self._experience.segments,
            self._experience.minibatch_segments,
            law=law,
            seed=seed,
            epoch=draw,
            minibatch=mb_idx,
            beta=beta,
        )
        device = self._experience.device
        return indices.to(device), weights.to(device)

    def _row_priorities(self, advantages: Tensor, alpha: float) -> Tensor:
        """The same for all minibatches of an update epoch, as long as nobody writes into `advantages`."""
        known = self._priorities
        if known is None or known[0] is not advantages or known[1:3] != (advantages._version, alpha):
            known = (advantages, advantages._version, alpha, ops.row_priorities(advantages.detach(), alpha))
            self._priorities = known
        return known[3]

    def _leaves(self) -> dict[Key, Tensor]:
        items = self._experience.buffer.items(include_nested=True, leaves_only=True)
        return {key: leaf for key, leaf in items if isinstance(leaf, Tensor)}

    def _kept(self, key: Key, leaf: Tensor) -> Tensor:
        shape = (self._experience.minibatch_segments, *leaf.shape[1:])
        memory = self._memory.get(key)
        if memory is None or memory.shape != shape or memory.dtype != leaf.dtype:
            memory = self._memory[key] = torch.empty(shape, dtype=leaf.dtype, device=leaf.device)
        return memory

    def _assemble(self, leaves: dict[Key, Tensor]) -> TensorDict:
        return TensorDict(nest(leaves), batch_size=self._batch_size, device=self._experience.device)

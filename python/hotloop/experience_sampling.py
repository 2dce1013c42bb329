"""Minibatches of an Experience: which rows, and how they are taken out of the buffer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import is_not
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from hotloop import ops
from hotloop.devices import in_host_memory, runs_ops
from hotloop.entries import flat_tensordict, plain_entries
from hotloop.experience_epoch import EpochRows
from hotloop.experience_strata import Strata, rank_seed
from hotloop.ops._memory import empty_buffer
from hotloop.segment_sampler import SegmentSampler, configured_exponent, importance_exponent
from hotloop.spec import Key

if TYPE_CHECKING:
    from hotloop.experience import Experience

# No buffer has entries of these names.
_ADVANTAGES: Key = ("", "advantages")
_COLUMNS: list[Key] = [("", f"column {i}") for i in range(8)]


class SampledRows(NamedTuple):
    """The rows of a minibatch, as they are before `MinibatchSampler.assemble` makes TensorDicts of them."""

    leaves: dict[Key, Tensor]  # of the buffer, [B, T, ...] each
    indices: Tensor  # int64 [B]
    weights: Tensor  # float32 [B, T]
    advantages: Tensor  # [B, T]
    columns: list[Tensor]  # [B, T] each


def law_of(config: Any) -> str:
    """How a `SamplingConfig` has rows drawn: ``"sequential"``, ``"stratified"``, or a law of
    `hotloop.ops.sample_segments`. ValueError for another method."""
    method: str = config.method
    if method == "prioritized":
        return "sequential" if config.prio_alpha <= 0.0 else getattr(config, "law", "successive")
    if method not in ("sequential", "permutation", "stratified"):
        raise ValueError(
            "Experience.sample: the method must be 'sequential', 'permutation', 'stratified' or "
            f"'prioritized', got {method!r}"
        )
    return method


class MinibatchSampler:
    """Draws and gathers the minibatches of one experience; its public face is `Experience.sample`."""

    def __init__(self, experience: Experience) -> None:
        self._experience = experience
        self._batch_size = torch.Size((experience.minibatch_segments, experience.bptt_horizon))
        self._sequential_idx_cache: dict[int, Tensor] = {}
        self.ones = torch.ones(self._batch_size, dtype=torch.float32, device=experience.device)
        self._native = runs_ops(experience.device)
        self._in_host_memory = in_host_memory(experience.device)
        self.segments = SegmentSampler(
            experience.segments,
            experience.minibatch_segments,
            device=experience.device if self._native else "cpu",
        )
        self._stratified: Strata | None = None
        self._epoch_rows: EpochRows | None = None
        # Memory for reused minibatches, and the plan that fills it.
        self._memory: dict[Key, Tensor] = {}
        self._plan: ops.GatherPlan | None = None
        self._planned: list[Tensor] = []  # the leaves that it was last made or found fit for

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_epoch_rows": None}  # bound to tensors that a copy has anew

    @property
    def rank(self) -> int:
        """Of the experience."""
        return self._experience.rank

    def epoch_rows(
        self,
        leaves: Mapping[Key, Tensor],
        early: Key,
        advantages: Tensor,
        *,
        config: Any,
        epoch: int,
        total_epochs: int,
        seed: int,
        draw: int,
    ) -> EpochRows:
        """`sample` for all minibatches of an update epoch, of some leaves in host memory."""
        law = law_of(config)
        if self._epoch_rows is None or not self._epoch_rows.serves(law, leaves):
            self._epoch_rows = EpochRows(self, law, leaves, early)
        self._epoch_rows.begin(
            advantages, config=config, epoch=epoch, total_epochs=total_epochs, seed=seed, draw=draw
        )
        return self._epoch_rows

    @staticmethod
    def beta(prio_alpha: float, prio_beta0: float, epoch: int, total_epochs: int) -> float:
        """The exponent as PufferLib and Metta grow it: see `hotloop.segment_sampler.importance_exponent`."""
        return importance_exponent("reference", prio_beta0, prio_alpha, epoch, total_epochs)

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
        columns: Sequence[Tensor] = (),
    ) -> SampledRows:
        """See `Experience.sample` and `Experience.sample_columns`."""
        experience = self._experience
        expected = (experience.segments, experience.bptt_horizon)
        if advantages.shape != expected:
            raise ValueError(
                f"Experience.sample: advantages must be {list(expected)}, got {list(advantages.shape)}"
            )
        weights = self.ones
        keys = _COLUMNS[: len(columns)]
        extra = {_ADVANTAGES: advantages, **dict(zip(keys, columns, strict=True))}
        law = law_of(config)
        if law == "sequential":
            leaves, indices = self._sequential(mb_idx, extra, reuse)
        else:
            if law == "stratified":
                indices = self.strata().draw(mb_idx, seed, draw)
            elif law == "permutation":
                indices, _ = self._draw(mb_idx, law, None, 0.0, 1.0, seed, draw)
            else:
                beta = configured_exponent(config, epoch, total_epochs)
                indices, weights = self._draw(mb_idx, law, advantages, config.prio_alpha, beta, seed, draw)
                weights = weights.unsqueeze(1).expand(self._batch_size)
            leaves = self._take(self._leaves(extra), indices, reuse)
        chosen = leaves.pop(_ADVANTAGES)
        return SampledRows(leaves, indices, weights, chosen, [leaves.pop(key) for key in keys])

    def assemble(self, rows: SampledRows) -> tuple[TensorDict, list[Tensor]]:
        """What `Experience.sample_columns` returns."""
        shared = flat_tensordict(
            {
                "prio_weights": rows.weights,
                "sampled_mb": self._assemble(rows.leaves),
                "indices": rows.indices.unsqueeze(1).expand(self._batch_size),
                "advantages": rows.advantages,
            },
            self._batch_size,
            self._experience.device,
        )
        return shared, rows.columns

    def sequential(self, mb_idx: int) -> tuple[TensorDict, Tensor]:
        """Rows in order, as `_sequential` takes them."""
        leaves, indices = self._sequential(mb_idx, {}, False)
        return self._assemble(leaves), indices

    def prioritized(
        self, mb_idx: int, advantages: Tensor, *, alpha: float, beta: float, seed: int, draw: int
    ) -> tuple[TensorDict, Tensor, Tensor]:
        """Rows by the law `successive`, with weights `(S p) ** -beta`, expanded to [B, T]."""
        if alpha <= 0.0:
            return *self.sequential(mb_idx), self.ones
        indices, weights = self._draw(mb_idx, "successive", advantages, alpha, beta, seed, draw)
        minibatch = self._assemble(self._take(self._leaves({}), indices, False))
        return minibatch, indices, weights.unsqueeze(1).expand(self._batch_size)

    def _sequential(
        self, mb_idx: int, extra: Mapping[Key, Tensor], reuse: bool
    ) -> tuple[dict[Key, Tensor], Tensor]:
        """Rows in order. Wide entries are views; columns of one number per step are copied, because losses
        write new values of them into the buffer (`update`) while the minibatch, and its graph, are still in
        use."""
        rows, indices = self.in_order(mb_idx)
        leaves = self._leaves(extra)
        columns = {key: leaf for key, leaf in leaves.items() if leaf.dim() == 2}
        copies = self._take(columns, indices, reuse)
        return {key: copies[key] if key in copies else leaf[rows] for key, leaf in leaves.items()}, indices

    def in_order(self, mb_idx: int) -> tuple[slice, Tensor]:
        """The rows of minibatch `mb_idx` of consecutive ones, and their indices, int64 `[B]`."""
        first = mb_idx % self._experience.num_minibatches * self._experience.minibatch_segments
        rows = slice(first, first + self._experience.minibatch_segments)
        indices = self._sequential_idx_cache.get(first)
        if indices is None:
            indices = torch.arange(rows.start, rows.stop, device=self._experience.device)
            self._sequential_idx_cache[first] = indices
        return rows, indices

    def _take(self, leaves: dict[Key, Tensor], indices: Tensor, reuse: bool) -> dict[Key, Tensor]:
        """Copies of rows; into memory kept for the purpose when `reuse`."""
        if not reuse:
            if self._native:
                return dict(zip(leaves, ops.gather(_detached(leaves.values()), indices), strict=True))
            return {key: leaf.index_select(0, indices) for key, leaf in leaves.items()}
        if not self._native:
            return {
                key: torch.index_select(leaf.detach(), 0, indices, out=self.kept(key, leaf))
                for key, leaf in leaves.items()
            }
        sources = list(leaves.values())
        if not self._in_host_memory:
            kept = [self.kept(key, leaf) for key, leaf in leaves.items()]
            return dict(zip(leaves, ops.gather(_detached(sources), indices, out=kept), strict=True))
        known = self._planned
        if len(known) != len(sources) or any(map(is_not, known, sources)):
            out = {key: self.kept(key, leaf) for key, leaf in leaves.items()}
            if self._plan is None or list(map(id, self._plan.out.values())) != list(map(id, out.values())):
                self._plan = ops.GatherPlan(out)
            self._planned = sources
        assert self._plan is not None
        self._plan.gather(sources, indices)
        return dict(zip(leaves, self._plan.out.values(), strict=True))

    def strata(self) -> Strata:
        """Those of this rank."""
        strata, experience = self._stratified, self._experience
        rank, world_size = experience.rank, experience.world_size
        if strata is None or (strata.rank, strata.world_size) != (rank, world_size):
            strata = self._stratified = Strata(
                experience.segments,
                experience.minibatch_segments,
                experience.total_agents,
                rank,
                world_size,
                experience.device,
            )
        return strata

    def _draw(
        self,
        mb_idx: int,
        law: str,
        advantages: Tensor | None,
        alpha: float,
        beta: float,
        seed: int,
        draw: int,
    ) -> tuple[Tensor, Tensor]:
        """Rows `[B]` and their weights, in new tensors: they may be kept longer than a minibatch."""
        sampler = self.segments
        sampler.law, sampler.alpha, sampler.seed = law, alpha, rank_seed(seed, self._experience.rank)
        indices, weights = sampler.draw(advantages, epoch=draw, minibatch=mb_idx, beta=beta)
        device = self._experience.device
        indices = indices.to(device, copy=True)
        return indices, self.ones if law == "permutation" else weights.to(device, copy=True)

    def _leaves(self, extra: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
        """Every entry of the buffer, and `extra` with them."""
        buffer = self._experience.buffer
        plain = plain_entries(buffer)
        if plain is not None:
            return {**plain, **extra}
        items = buffer.items(include_nested=True, leaves_only=True)
        leaves: dict[Key, Tensor] = {key: leaf for key, leaf in items if isinstance(leaf, Tensor)}
        leaves.update(extra)
        return leaves

    def kept(self, key: Key, leaf: Tensor) -> Tensor:
        """Memory for a minibatch's rows of a leaf, the same at every call."""
        shape = (self._experience.minibatch_segments, *leaf.shape[1:])
        memory = self._memory.get(key)
        if memory is None or memory.shape != shape or memory.dtype != leaf.dtype:
            memory = self._memory[key] = empty_buffer(shape, leaf.dtype, self._experience.device)
        return memory

    def _assemble(self, leaves: dict[Key, Tensor]) -> TensorDict:
        return flat_tensordict(leaves, self._batch_size, self._experience.device)


def _detached(leaves: Iterable[Tensor]) -> list[Tensor]:
    return [leaf.detach() if leaf.requires_grad else leaf for leaf in leaves]

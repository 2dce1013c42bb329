"""The `Experience` of the layout *head*: trackers, keys to store, minibatches in order or by priority."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from tensordict import TensorDict
from torch import Tensor

from hotloop.integrations.metta.storage import SegmentedExperience, leaf_keys
from hotloop.spec import Key


class Experience(SegmentedExperience):
    """`metta.rl.training.Experience` of the layout *head*.

    Minibatches in order are views of the buffer, and prioritised ones lie in memory that the next minibatch
    overwrites: losses may add entries and read all of them, but not change them in place or keep them.
    `copy=True` gives every minibatch memory of its own, as Metta does.
    """

    _tracker_dtype: ClassVar[torch.dtype] = torch.int64

    def __init__(
        self,
        total_agents: int,
        batch_size: int,
        bptt_horizon: int,
        minibatch_size: int,
        max_minibatch_size: int,
        experience_spec: Any,
        device: torch.device | str,
        sampling_config: Any = None,
        *,
        copy: bool | None = None,
    ) -> None:
        super().__init__(
            total_agents, batch_size, bptt_horizon, minibatch_size, max_minibatch_size, experience_spec,
            device, copy=copy,
        )  # fmt: skip
        self.sampling_config = sampling_config
        self._sequential_idx_cache: dict[int, Tensor] = {}
        self._ones_prio_weights = torch.ones(
            (self.minibatch_segments, bptt_horizon), dtype=torch.float32, device=self.device
        )
        self._all_store_keys: list[Key] = leaf_keys(self.buffer)
        self._store_keys = list(self._all_store_keys)
        self._priorities: tuple[Tensor, int, float, Tensor] | None = None

    @staticmethod
    def _complete(spec: dict[str, Any]) -> dict[str, Any]:
        return {**spec, "reward_baseline": (torch.Size(()), torch.float32)}

    @property
    def row_slot_ids(self) -> Tensor:
        """int64 [A], live until the next rollout: the row that each agent writes."""
        return self._rows

    @property
    def t_in_row(self) -> Tensor:
        """int64 [A], live: the column that each agent writes next."""
        return self._positions

    @property
    def t_in_row_cpu(self) -> Tensor:
        """`t_in_row` in host memory."""
        return self._cursors.positions

    # Storing

    def _keys_to_store(self, anew: bool = False) -> list[Key]:
        return self._store_keys

    @property
    def store_keys(self) -> list[Key]:
        """The keys that `store` writes."""
        return list(self._store_keys)

    def set_store_keys(self, keys: Iterable[Key]) -> None:
        """Restrict what `store` writes. KeyError for a key that the buffer lacks."""
        chosen = list(keys)
        unknown = [key for key in chosen if key not in set(leaf_keys(self.buffer))]
        if unknown:
            raise KeyError(f"Experience.set_store_keys: the buffer has no {unknown}")
        self._store_keys = chosen

    def reset_store_keys(self) -> None:
        """`store` writes every key of the spec again."""
        self._store_keys = list(self._all_store_keys)

    # Training

    def sample(
        self, mb_idx: int, epoch: int, total_timesteps: int, batch_size: int, advantages: Tensor
    ) -> TensorDict:
        """One minibatch as `sampling_config` says: a TensorDict `[B, T]` with `prio_weights` (float32),
        `sampled_mb`, `indices` (int64) and `advantages`.

        Raises ValueError for a method other than "sequential" and "prioritized".
        """
        config = self.sampling_config
        if config.method not in ("sequential", "prioritized"):
            raise ValueError(
                f"Experience.sample: the method must be 'sequential' or 'prioritized', got {config.method!r}"
            )
        size = self._ones_prio_weights.shape
        if config.method == "sequential" or config.prio_alpha <= 0.0:
            indices = self._sequential_indices(mb_idx)
            first = self._first_row(mb_idx)
            minibatch, chosen = self._minibatches.in_order(self.buffer, advantages, first)
            weights = self._ones_prio_weights
        else:
            indices, weights = self._draw(
                epoch, total_timesteps, batch_size, config.prio_alpha, config.prio_beta0, advantages
            )
            minibatch, chosen = self._minibatches.drawn(self.buffer, advantages, indices)
        return self._minibatches.shell(
            {
                "prio_weights": weights,
                "sampled_mb": minibatch,
                "indices": indices.unsqueeze(1).expand(size),
                "advantages": chosen,
            }
        )

    def sample_sequential(self, mb_idx: int) -> tuple[TensorDict, Tensor]:
        """Rows `mb_idx * B` to `mb_idx * B + B` (modulo `num_minibatches`) and their indices, int64 `[B]`."""
        minibatch, _ = self._minibatches.in_order(self.buffer, None, self._first_row(mb_idx))
        return minibatch, self._sequential_indices(mb_idx)

    def sample_prioritized(
        self,
        mb_idx: int,
        epoch: int,
        total_timesteps: int,
        batch_size: int,
        prio_alpha: float,
        prio_beta0: float,
        advantages: Tensor,
    ) -> tuple[TensorDict, Tensor, Tensor]:
        """Rows drawn without replacement by one `torch.multinomial`, with probability ~ (sum_t |advantages|)
        ** prio_alpha: the minibatch `[B, T]`, its indices (int64 `[B]`) and weights (float32 `[B, T]`).
        Sequential rows and ones when `prio_alpha <= 0`."""
        if prio_alpha <= 0.0:
            return *self.sample_sequential(mb_idx), self._ones_prio_weights
        indices, weights = self._draw(epoch, total_timesteps, batch_size, prio_alpha, prio_beta0, advantages)
        minibatch, _ = self._minibatches.drawn(self.buffer, None, indices)
        return minibatch, indices, weights

    def stats(self) -> dict[str, float]:
        """Means over the buffer: `rewards`, `dones`, `truncateds`, `values`, `act_log_prob`, `ratio`,
        `actions_mean`, `actions_std`, as far as stored, and `t_in_row`, the mean column of the agents that
        are inside a row."""
        return self._statistics("t_in_row")

    def _first_row(self, mb_idx: int) -> int:
        return mb_idx % self.num_minibatches * self.minibatch_segments

    def _sequential_indices(self, mb_idx: int) -> Tensor:
        first = self._first_row(mb_idx)
        indices = self._sequential_idx_cache.get(first)
        if indices is None:
            indices = torch.arange(first, first + self.minibatch_segments, device=self.device)
            self._sequential_idx_cache[first] = indices
        return indices

    def _draw(
        self,
        epoch: int,
        total_timesteps: int,
        batch_size: int,
        alpha: float,
        beta0: float,
        advantages: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Rows `[B]` and weights `[B, T]`. The exponent may exceed 1, as in Metta."""
        beta = beta0 + (1 - beta0) * alpha * epoch / max(1, total_timesteps // batch_size)
        probabilities = self._probabilities(advantages, alpha)
        indices = torch.multinomial(probabilities, self.minibatch_segments)
        weights = (self.segments * probabilities[indices]) ** -beta
        return indices, weights.unsqueeze(1).expand(self._ones_prio_weights.shape)

    def _probabilities(self, advantages: Tensor, alpha: float) -> Tensor:
        """`[S]`, made once for all minibatches that are drawn by the same advantages."""
        counts_changes = not advantages.is_inference()
        known = self._priorities
        if (
            counts_changes
            and known is not None
            and known[0] is advantages
            and known[1:3] == (advantages._version, alpha)
        ):
            return known[3]
        weights = torch.nan_to_num(advantages.abs().sum(dim=1) ** alpha, 0, 0, 0)
        made = (weights + 1e-6) / (weights.sum() + 1e-6)
        self._priorities = (advantages, advantages._version, alpha, made) if counts_changes else None
        return made

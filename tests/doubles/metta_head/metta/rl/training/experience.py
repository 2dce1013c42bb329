"""Rollout storage in plain torch: the layout of January 2026."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from metta_double import SCALAR


class Experience:
    def __init__(
        self,
        total_agents: int,
        batch_size: int,
        bptt_horizon: int,
        minibatch_size: int,
        max_minibatch_size: int,
        experience_spec: Any,
        device: torch.device | str,
        sampling_config: Any,
    ) -> None:
        self.total_agents = total_agents
        self.batch_size = batch_size
        self.bptt_horizon = bptt_horizon
        self.device = torch.device(device)
        self.sampling_config = sampling_config
        self.segments = batch_size // bptt_horizon
        self.minibatch_size = min(minibatch_size, max_minibatch_size)
        self.accumulate_minibatches = max(1, minibatch_size // max_minibatch_size)
        self.minibatch_segments = self.minibatch_size // bptt_horizon
        self.num_minibatches = self.segments // self.minibatch_segments
        if total_agents > self.segments or self.minibatch_size % bptt_horizon:
            raise ValueError("sizes do not fit")
        self.buffer: TensorDict = experience_spec.zeros(self.segments, bptt_horizon)
        self._store_keys: list[Any] = experience_spec.keys(include_nested=True, leaves_only=True)
        self._all_keys = list(self._store_keys)
        self._range_tensor = torch.arange(total_agents)
        self.t_in_row = torch.zeros(total_agents, dtype=torch.int64)
        self.t_in_row_cpu = torch.zeros(total_agents, dtype=torch.int64)
        self._sequential_idx_cache: dict[int, Tensor] = {}
        self._ones_prio_weights = torch.ones(self.minibatch_segments, bptt_horizon)
        self.reset_for_rollout()

    @classmethod
    def from_losses(
        cls, total_agents: int, batch_size: int, bptt_horizon: int, minibatch_size: int,
        max_minibatch_size: int, policy_experience_spec: Any, losses: dict[str, Any], device: Any,
        sampling_config: Any,
    ) -> Experience:  # fmt: skip
        spec = type(policy_experience_spec)(policy_experience_spec)
        for loss in losses.values():
            spec.update(loss.get_experience_spec())
        spec["reward_baseline"] = SCALAR
        experience = cls(
            total_agents, batch_size, bptt_horizon, minibatch_size, max_minibatch_size, spec, device,
            sampling_config,
        )  # fmt: skip
        for loss in losses.values():
            loss.attach_replay_buffer(experience)
        return experience

    @property
    def ready_for_training(self) -> bool:
        return self.full_rows >= self.segments

    def reset_for_rollout(self) -> None:
        self.full_rows = 0
        self.free_idx = self.total_agents % self.segments
        self.row_slot_ids = self._range_tensor % self.segments
        self.t_in_row.zero_()
        self.t_in_row_cpu.zero_()

    @property
    def store_keys(self) -> list[Any]:
        return list(self._store_keys)

    def set_store_keys(self, keys: Iterable[Any]) -> None:
        chosen = list(keys)
        if any(key not in self.buffer.keys(True) for key in chosen):
            raise KeyError(str(chosen))
        self._store_keys = chosen

    def reset_store_keys(self) -> None:
        self._store_keys = list(self._all_keys)

    def store(self, data_td: TensorDict, env_id: slice) -> None:
        t = int(self.t_in_row_cpu[env_id.start].item())
        rows = self.row_slot_ids[env_id]
        self.buffer.update_at_(data_td.select(*self._store_keys), (rows, t))
        self.t_in_row[env_id] += 1
        self.t_in_row_cpu[env_id] += 1
        if t + 1 >= self.bptt_horizon:
            n = env_id.stop - env_id.start
            self.row_slot_ids[env_id] = (self.free_idx + self._range_tensor[:n]) % self.segments
            self.t_in_row[env_id] = 0
            self.t_in_row_cpu[env_id] = 0
            self.free_idx = (self.free_idx + n) % self.segments
            self.full_rows += n

    def sample(
        self, mb_idx: int, epoch: int, total_timesteps: int, batch_size: int, advantages: Tensor
    ) -> TensorDict:
        config, size = self.sampling_config, (self.minibatch_segments, self.bptt_horizon)
        if config.method == "sequential":
            minibatch, rows = self.sample_sequential(mb_idx)
            weights = self._ones_prio_weights
        else:
            minibatch, rows, weights = self.sample_prioritized(
                mb_idx, epoch, total_timesteps, batch_size, config.prio_alpha, config.prio_beta0, advantages
            )
        shared = TensorDict({}, batch_size=size, device=self.device)
        shared["prio_weights"] = weights
        shared["sampled_mb"] = minibatch
        shared["indices"] = rows[:, None].expand(size)
        shared["advantages"] = advantages[rows]
        return shared

    def sample_sequential(self, mb_idx: int) -> tuple[TensorDict, Tensor]:
        first = mb_idx % self.num_minibatches * self.minibatch_segments
        if first not in self._sequential_idx_cache:
            self._sequential_idx_cache[first] = torch.arange(first, first + self.minibatch_segments)
        rows = self._sequential_idx_cache[first]
        return self.buffer[rows].clone(), rows

    def sample_prioritized(
        self, mb_idx: int, epoch: int, total_timesteps: int, batch_size: int, prio_alpha: float,
        prio_beta0: float, advantages: Tensor,
    ) -> tuple[TensorDict, Tensor, Tensor]:  # fmt: skip
        if prio_alpha <= 0.0:
            return *self.sample_sequential(mb_idx), self._ones_prio_weights
        weights = torch.nan_to_num(advantages.abs().sum(dim=1) ** prio_alpha, 0, 0, 0)
        p = (weights + 1e-6) / (weights.sum() + 1e-6)
        rows = torch.multinomial(p, self.minibatch_segments)
        beta = prio_beta0 + (1 - prio_beta0) * prio_alpha * epoch / max(1, total_timesteps // batch_size)
        prio = (self.segments * p[rows]) ** -beta
        return self.buffer[rows].clone(), rows, prio[:, None].expand(-1, self.bptt_horizon)

    def update(self, indices: Tensor, data_td: TensorDict) -> None:
        self.buffer[indices].update(data_td)

    def reset_importance_sampling_ratios(self) -> None:
        if "ratio" in self.buffer.keys():  # noqa: SIM118
            self.buffer["ratio"].fill_(1.0)

    def give_me_empty_md_td(self) -> TensorDict:
        return TensorDict({}, batch_size=(self.minibatch_segments, self.bptt_horizon), device=self.device)

    def stats(self) -> dict[str, float]:
        names = ("rewards", "values", "act_log_prob", "dones", "truncateds")
        found = {
            name: self.buffer[name].mean().item()
            for name in names
            if name in self.buffer.keys()  # noqa: SIM118
        }
        inside = self.t_in_row[self.t_in_row > 0]
        found["t_in_row"] = inside.float().mean().item() if len(inside) else 0.0
        actions = self.buffer["actions"].float()
        found["actions_mean"], found["actions_std"] = actions.mean().item(), actions.std().item()
        return found

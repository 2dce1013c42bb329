"""Rollout storage in plain torch: the layout of October 2025."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor


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
    ) -> None:
        self.total_agents = total_agents
        self.batch_size = batch_size
        self.bptt_horizon = bptt_horizon
        self.device = torch.device(device)
        self.segments = batch_size // bptt_horizon
        self.minibatch_size = min(minibatch_size, max_minibatch_size)
        self.accumulate_minibatches = max(1, minibatch_size // max_minibatch_size)
        self.minibatch_segments = self.minibatch_size // bptt_horizon
        self.num_minibatches = self.segments // self.minibatch_segments
        if total_agents > self.segments or self.minibatch_size % bptt_horizon:
            raise ValueError("sizes do not fit")
        self.buffer: TensorDict = experience_spec.zeros(self.segments, bptt_horizon)
        self._range_tensor = torch.arange(total_agents, dtype=torch.int32)
        self.ep_lengths = torch.zeros(total_agents, dtype=torch.int32)
        self.reset_for_rollout()

    @classmethod
    def from_losses(
        cls, total_agents: int, batch_size: int, bptt_horizon: int, minibatch_size: int,
        max_minibatch_size: int, policy_experience_spec: Any, losses: dict[str, Any], device: Any,
    ) -> Experience:  # fmt: skip
        spec = type(policy_experience_spec)(policy_experience_spec)
        for loss in losses.values():
            spec.update(loss.get_experience_spec())
        experience = cls(
            total_agents, batch_size, bptt_horizon, minibatch_size, max_minibatch_size, spec, device
        )
        for loss in losses.values():
            loss.attach_replay_buffer(experience)
        return experience

    @property
    def ready_for_training(self) -> bool:
        return self.full_rows >= self.segments

    def reset_for_rollout(self) -> None:
        self.full_rows = 0
        self.free_idx = self.total_agents % self.segments
        self.ep_indices = self._range_tensor % self.segments
        self.ep_lengths.zero_()

    def store(self, data_td: TensorDict, env_id: slice) -> None:
        t = int(self.ep_lengths[env_id.start].item())
        rows = self.ep_indices[env_id]
        self.buffer.update_at_(data_td.select(*self.buffer.keys(True)), (rows, t))
        self.ep_lengths[env_id] += 1
        if t + 1 >= self.bptt_horizon:
            n = env_id.stop - env_id.start
            self.ep_indices[env_id] = (self.free_idx + self._range_tensor[:n]) % self.segments
            self.ep_lengths[env_id] = 0
            self.free_idx = (self.free_idx + n) % self.segments
            self.full_rows += n

    def update(self, indices: Tensor, data_td: TensorDict) -> None:
        self.buffer[indices].update(data_td)

    def reset_importance_sampling_ratios(self) -> None:
        if "ratio" in self.buffer.keys():  # noqa: SIM118
            self.buffer["ratio"].fill_(1.0)

    def give_me_empty_md_td(self) -> TensorDict:
        return TensorDict({}, batch_size=(self.minibatch_segments, self.bptt_horizon), device=self.device)

    def stats(self) -> dict[str, float]:
        found = {
            name: self.buffer[name].mean().item()
            for name in ("rewards", "values", "act_log_prob", "dones", "truncateds")
        }
        inside = self.ep_lengths[self.ep_lengths > 0]
        found["ep_lengths"] = inside.float().mean().item() if len(inside) else 0.0
        actions = self.buffer["actions"].float()
        found["actions_mean"], found["actions_std"] = actions.mean().item(), actions.std().item()
        return found

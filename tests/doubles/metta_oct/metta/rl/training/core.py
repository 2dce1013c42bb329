"""The training loop in plain torch: the layout of October 2025."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from metta.rl.training.experience import Experience


class RolloutResult(SimpleNamespace):
    pass


class CoreTrainingLoop:
    def __init__(
        self,
        policy: Any,
        experience: Experience,
        losses: dict[str, Any],
        optimizer: Any,
        device: torch.device,
        context: Any,
    ) -> None:
        self.policy, self.experience, self.losses = policy, experience, losses
        self.optimizer, self.device, self.context = optimizer, device, context
        self.accumulate_minibatches = experience.accumulate_minibatches
        self.last_action: Tensor | None = None
        self._env_index_cache = experience._range_tensor.to(device=device, dtype=torch.long)
        self._metadata_cache: dict[tuple[str, int], Tensor] = {}
        self.policy_spec = policy.get_agent_experience_spec()

    def on_epoch_start(self, context: Any) -> None:
        for loss in self.losses.values():
            loss.on_new_training_run(context)

    def rollout_phase(self, env: Any, context: Any) -> RolloutResult:
        experience = self.experience
        experience.reset_for_rollout()
        for loss in self.losses.values():
            loss.on_rollout_start(context)
        template = experience.buffer[experience.ep_indices, experience.ep_lengths - 1]
        template = template.select(*self.policy_spec.keys())
        raw_infos: list[Any] = []
        total, last = 0, None
        while not experience.ready_for_training:
            obs, rewards, dones, truncateds, info, window, _, steps = env.get_observations()
            last = window
            td = template[window].clone()
            td["env_obs"] = obs.to(device=td.device, non_blocking=True)
            td["rewards"] = rewards.to(device=td.device, non_blocking=True)
            td["dones"] = dones.to(device=td.device, dtype=torch.float32, non_blocking=True)
            td["truncateds"] = truncateds.to(device=td.device, dtype=torch.float32, non_blocking=True)
            td["training_env_ids"] = self._env_index_cache[window].unsqueeze(1)
            self.add_last_action_to_td(td, env)
            n = td.batch_size.numel()
            for name, value in (("batch", n), ("bptt", 1)):
                if name not in td.keys():  # noqa: SIM118
                    td[name] = self._constant(name, n, value)
            context.training_env_id = window
            for loss in self.losses.values():
                loss.rollout(td, context)
            assert "actions" in td
            self.last_action[window] = td["actions"].detach()
            env.send_actions(td["actions"].cpu().numpy())
            raw_infos += list(info) if info else []
            total += steps
        if last is None:
            raise RuntimeError("no step was made")
        context.training_env_id = last
        return RolloutResult(raw_infos=raw_infos, agent_steps=total, training_env_id=last)

    def _constant(self, name: str, n: int, value: int) -> Tensor:
        key = (name, n)
        if key not in self._metadata_cache:
            self._metadata_cache[key] = torch.full((n,), value, dtype=torch.long)
        return self._metadata_cache[key]

    def add_last_action_to_td(self, td: TensorDict, env: Any) -> None:
        ids = td["training_env_ids"].squeeze(-1)
        length = int(ids.max().item()) + 1
        if self.last_action is None or self.last_action.size(0) < length:
            space = env.single_action_space
            whole = np.issubdtype(space.dtype, np.integer)
            dtype = torch.int32 if whole else torch.float32
            self.last_action = torch.zeros(length, len(space.nvec), dtype=dtype)
        td["last_actions"] = self.last_action[ids].detach()

    def training_phase(
        self, context: Any, update_epochs: int, max_grad_norm: float = 0.5
    ) -> tuple[dict[str, float], int]:
        assert context.training_env_id is not None
        shared = self.experience.give_me_empty_md_td()
        for name in self.losses:
            shared[name] = self.experience.give_me_empty_md_td()
        shared.zero_()
        self.experience.reset_importance_sampling_ratios()
        for loss in self.losses.values():
            loss.zero_loss_tracker()
        trained = 0
        for _ in range(update_epochs):
            stop_epoch = False
            for mb_idx in range(self.experience.num_minibatches):
                if mb_idx % self.accumulate_minibatches == 0:
                    self.optimizer.zero_grad()
                total, stop = torch.tensor(0.0), False
                for loss in self.losses.values():
                    value, shared, wants_stop = loss.train(shared, context, mb_idx)
                    total = total + value
                    stop = stop or wants_stop
                if stop:
                    stop_epoch = True
                    break
                total.backward()
                if (mb_idx + 1) % self.accumulate_minibatches == 0:
                    limit = max_grad_norm
                    for loss in self.losses.values():
                        if hasattr(loss.loss_cfg, "max_grad_norm"):
                            limit = loss.loss_cfg.max_grad_norm
                            break
                    torch.nn.utils.clip_grad_norm_(self.policy.parameters(), limit)
                    self.optimizer.step()
                for loss in self.losses.values():
                    loss.on_mb_end(context, mb_idx)
            trained += 1
            if stop_epoch:
                break
        for loss in self.losses.values():
            loss.on_train_phase_end(context)
        stats: dict[str, float] = {}
        for loss in self.losses.values():
            stats.update(loss.stats())
        return stats, trained

"""The training loop in plain torch: the layout of January 2026."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from tensordict import NonTensorData, TensorDict
from torch import Tensor

from metta.rl.advantage import compute_advantage, compute_delta_lambda
from metta.rl.training.experience import Experience


class RolloutResult(SimpleNamespace):
    pass


_SIZES: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}


def add_sizes(td: TensorDict, batch: int, steps: int) -> None:
    if (batch, steps) not in _SIZES:
        count = batch * steps
        _SIZES[batch, steps] = torch.full((count,), batch), torch.full((count,), steps)
    for name, size in zip(("batch", "bptt"), _SIZES[batch, steps], strict=True):
        if name not in td.keys():  # noqa: SIM118
            td[name] = size


def forward_for_training(policy: Any, minibatch: TensorDict, spec: Any) -> TensorDict:
    rows, horizon = minibatch.batch_size
    td = minibatch.select(*spec.keys(include_nested=True)).reshape(rows * horizon)
    add_sizes(td, rows, horizon)
    policy.reset_memory()
    td = policy.forward(td, action=minibatch["actions"].reshape(rows * horizon, -1))
    return td.reshape(rows, horizon)


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
        self.last_action = torch.zeros(experience.total_agents, 1, dtype=torch.int32)
        self._env_index_cache = experience._range_tensor.to(device=device, dtype=torch.long)
        self.policy_spec = policy.get_agent_experience_spec()

    def on_epoch_start(self, context: Any) -> None:
        for loss in self.losses.values():
            loss.on_epoch_start(context)

    def rollout_phase(self, env: Any, context: Any) -> RolloutResult:
        experience = self.experience
        experience.reset_for_rollout()
        for loss in self.losses.values():
            loss.on_rollout_start(context)
        template = experience.buffer[experience.row_slot_ids, experience.t_in_row - 1]
        template = template.select(*self.policy_spec.keys())
        raw_infos: list[Any] = []
        total, last = 0, None
        while not experience.ready_for_training:
            with context.stopwatch("_rollout.env_wait"):
                obs, rewards, dones, truncateds, teacher, info, window, _, steps = env.get_observations()
            last = window
            with context.stopwatch("_rollout.td_prep"):
                td = template[window].clone()
                td["env_obs"] = obs.to(device=td.device, non_blocking=True)
                td["rewards"] = rewards.to(device=td.device, non_blocking=True)
                agents = self._env_index_cache[window]
                td["training_env_ids"] = agents.unsqueeze(1)
                baseline = context.state.avg_reward[agents]
                td["reward_baseline"] = baseline
                td["dones"] = dones.to(device=td.device, dtype=torch.float32, non_blocking=True)
                td["truncateds"] = truncateds.to(device=td.device, dtype=torch.float32, non_blocking=True)
                td["teacher_actions"] = teacher.to(device=td.device, dtype=torch.long, non_blocking=True)
                td["row_id"] = experience.row_slot_ids[window]
                td["t_in_row"] = experience.t_in_row[window]
                self.add_last_action_to_td(td)
                add_sizes(td, td.batch_size.numel(), 1)
            with context.stopwatch("_rollout.inference"):
                context.training_env_id = window
                for loss in self.losses.values():
                    loss.rollout(td, context)
            average = context.state.avg_reward
            beta = float(context.config.advantage.reward_centering.beta)
            with torch.no_grad():
                reward = td["rewards"].to(dtype=torch.float32)
                average[agents] = baseline + beta * (reward - baseline)
            context.state.avg_reward = average
            assert "actions" in td
            actions = td["actions"].detach()
            if actions.dim() != 1:
                raise ValueError("one action an agent")
            self.last_action[window].copy_(actions.view(-1, 1).to(dtype=self.last_action.dtype))
            with context.stopwatch("_rollout.send"):
                env.send_actions(td["actions"].cpu().numpy())
            raw_infos += list(info) if info else []
            total += steps
        context.training_env_id = last
        return RolloutResult(raw_infos=raw_infos, agent_steps=total, training_env_id=last)

    def add_last_action_to_td(self, td: TensorDict) -> None:
        td["last_actions"] = self.last_action[td["training_env_ids"].squeeze(-1)].detach()

    def training_phase(
        self, context: Any, update_epochs: int, max_grad_norm: float = 0.5
    ) -> tuple[dict[str, float], int]:
        experience = self.experience
        experience.reset_importance_sampling_ratios()
        for loss in self.losses.values():
            loss.zero_loss_tracker()
        config = context.config.advantage
        critic = self.losses.get("ppo_critic")
        delta_lambda = (
            critic is not None
            and critic.cfg.critic_update == "gtd_lambda"
            and critic._loss_gate_allows("train", context)
        )
        trained = 0
        for _ in range(update_epochs):
            full = self._full_advantages(config)
            experience.buffer["advantages_full"] = full
            stop_epoch = False
            for mb_idx in range(experience.num_minibatches):
                if mb_idx % self.accumulate_minibatches == 0:
                    self.optimizer.zero_grad(set_to_none=True)
                shared = experience.sample(
                    mb_idx=mb_idx, epoch=context.epoch, total_timesteps=context.config.total_timesteps,
                    batch_size=context.config.batch_size, advantages=full,
                )  # fmt: skip
                if mb_idx == 0:
                    shared["advantages_full"] = NonTensorData(full)
                policy_td = forward_for_training(self.policy, shared["sampled_mb"], self.policy_spec)
                shared["policy_td"] = policy_td
                self._add_advantages(shared, config, delta_lambda)
                total, stop, used = torch.tensor(0.0), False, set()
                for loss in self.losses.values():
                    if loss._loss_gate_allows("train", context):
                        used |= loss.policy_output_keys(policy_td)
                    value, shared, wants_stop = loss.train(shared, context, mb_idx)
                    total = total + value
                    stop = stop or wants_stop
                if stop:
                    stop_epoch = True
                    break
                for key, value in policy_td.items():
                    if key not in used and isinstance(value, Tensor) and value.requires_grad:
                        total = total + 0.0 * value.sum()
                total.backward()
                if (mb_idx + 1) % self.accumulate_minibatches == 0:
                    limit = max_grad_norm
                    for loss in self.losses.values():
                        if hasattr(loss.cfg, "max_grad_norm"):
                            limit = loss.cfg.max_grad_norm
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

    def _full_advantages(self, config: Any) -> Tensor:
        buffer = self.experience.buffer
        if "values" not in buffer.keys():  # noqa: SIM118
            return torch.zeros(buffer.batch_size)
        values = buffer["values"]
        values = values.mean(dim=-1) if values.dim() > 2 else values
        return compute_advantage(
            values, buffer["rewards"] - buffer["reward_baseline"], buffer["dones"], torch.ones_like(values),
            torch.zeros_like(values), config.gamma, config.gae_lambda, self.device, config.vtrace_rho_clip,
            config.vtrace_c_clip,
        )  # fmt: skip

    def _add_advantages(self, shared: TensorDict, config: Any, delta_lambda: bool) -> None:
        minibatch, policy_td = shared["sampled_mb"], shared["policy_td"]
        if "act_log_prob" in minibatch.keys():  # noqa: SIM118
            old = minibatch["act_log_prob"]
            new = policy_td["act_log_prob"].reshape(old.shape)
            shared["importance_sampling_ratio"] = torch.clamp(new - old, -10, 10).exp()
        if "values" not in minibatch.keys():  # noqa: SIM118
            shared["advantages_pg"] = shared["advantages"]
            return
        rewards = minibatch["rewards"] - minibatch["reward_baseline"]
        if delta_lambda:
            shared["advantages_pg"] = compute_delta_lambda(
                values=policy_td["values"].reshape(minibatch["values"].shape), rewards=rewards,
                dones=minibatch["dones"], gamma=float(config.gamma), gae_lambda=float(config.gae_lambda),
            )  # fmt: skip
            return
        values = minibatch["values"]
        values = values.mean(dim=-1) if values.dim() > 2 else values
        ratio = shared.get("importance_sampling_ratio", None)
        with torch.no_grad():
            shared["advantages_pg"] = compute_advantage(
                values, rewards, minibatch["dones"], torch.ones_like(values) if ratio is None else ratio,
                shared["advantages"].clone(), config.gamma, config.gae_lambda, self.device,
                config.vtrace_rho_clip, config.vtrace_c_clip,
            )  # fmt: skip

"""Metta's training loop in the layout of January 2026 (a8d1ecee19): `CoreTrainingLoop`, `Experience`,
`compute_advantage`, `compute_delta_lambda`.

Each can replace its namesake alone: they rely on the others' documented members only. The loop samples, runs
the policy and computes advantages; the losses get the results.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NonTensorData, TensorDictBase
from torch import Tensor

from hotloop.entries import set_entries
from hotloop.integrations.metta import steps
from hotloop.integrations.metta.advantage import compute_advantage, compute_delta_lambda, full_advantages
from hotloop.integrations.metta.head_experience import Experience
from hotloop.integrations.metta.steps import RolloutResult, SliceSteps, StepTemplate
from hotloop.integrations.metta.storage import spec_keys
from hotloop.integrations.metta.training import TrainingLoop
from hotloop.integrations.metta.windows import Window
from hotloop.loop_stage import Column
from hotloop.loop_training import (
    add_unused_outputs,
    clear_gradients,
    forward_policy_for_training,
    sum_losses,
    uses_delta_lambda,
)

__all__ = ["CoreTrainingLoop", "Experience", "RolloutResult", "compute_advantage", "compute_delta_lambda"]

_PROVIDED = (
    "env_obs", "rewards", "training_env_ids", "reward_baseline", "dones", "truncateds", "teacher_actions",
    "row_id", "t_in_row", "last_actions",
)  # fmt: skip


class CoreTrainingLoop(TrainingLoop):
    """`metta.rl.training.core.CoreTrainingLoop` of the layout *head*.

    Attributes beside those of `TrainingLoop`: `last_action`, int32 ``[A, 1]``.
    """

    def __init__(
        self,
        policy: Any,
        experience: Any,
        losses: dict[str, Any],
        optimizer: Any,
        device: torch.device,
        context: Any,
    ) -> None:
        super().__init__(policy, experience, losses, optimizer, device, context)
        self.last_action: Tensor = torch.zeros(experience.total_agents, 1, dtype=torch.int32, device=device)
        self._policy_keys = spec_keys(self.policy_spec)
        self._advantages: Tensor | None = None
        self._delta_lambda = False

    def on_epoch_start(self, context: Any) -> None:
        """Pass on the hook: `on_epoch_start` of each loss."""
        for loss in self.losses.values():
            loss.on_epoch_start(context)

    # Rollout

    def rollout_phase(self, env: Any, context: Any) -> RolloutResult:
        """Step the environment until the experience holds a whole rollout.

        Raises ValueError when no loss wrote `actions`, or not `[n]`, RuntimeError when no step was made.
        """
        experience, losses, stopwatch = self.experience, self.losses, context.stopwatch
        experience.reset_for_rollout()
        for loss in losses.values():
            loss.on_rollout_start(context)
        template = StepTemplate(
            experience.buffer, self.policy_spec, experience.row_slot_ids, experience.t_in_row, _PROVIDED
        )
        own = getattr(self.add_last_action_to_td, "__func__", None) is CoreTrainingLoop.add_last_action_to_td
        built = self._built_hook()
        raw_infos: list[dict[str, Any]] = []
        agent_steps, served = 0, None
        slices: dict[Window, SliceSteps] = {}
        while not experience.ready_for_training:
            with stopwatch("_rollout.env_wait"):
                step = env.get_observations()
            obs, rewards, dones, truncateds, teacher, infos, env_slice, _, num_steps = step
            with stopwatch("_rollout.td_prep"):
                if env_slice is not served:
                    served, window = env_slice, self._windows[env_slice]
                    made = slices.get(window) or slices.setdefault(
                        window, self._slice_steps(template, window)
                    )
                last = self.last_action
                if last is not made.last:
                    made.lay_out(_columns(last.dtype), last)
                td = made.make(obs, rewards, (dones, truncateds, teacher), (context.state.avg_reward, last))
                if not own:
                    self.add_last_action_to_td(td)
                if built is not None:
                    built(td, step, env, context)
            with stopwatch("_rollout.inference"):
                context.training_env_id = env_slice
                for loss in losses.values():
                    loss.rollout(td, context)
            actions = self._finish(td, made, context)
            with stopwatch("_rollout.send"):
                steps.send(env, actions)
            if infos:
                raw_infos.extend(infos)
            agent_steps += num_steps
        context.training_env_id = served
        return steps.result(raw_infos, agent_steps, served)

    def add_last_action_to_td(self, td: TensorDictBase) -> None:
        """Set ``td["last_actions"]`` ``[n, 1]`` to copies of the last actions of the agents
        ``td["training_env_ids"]``."""
        td["last_actions"] = self.last_action[td["training_env_ids"].reshape(-1)]

    def _slice_steps(self, template: StepTemplate, window: Window) -> SliceSteps:
        experience = self.experience
        constants = {
            "training_env_ids": window.ids,
            # Views: they show what `store` makes of the trackers.
            "row_id": window.of("row_id", experience.row_slot_ids),
            "t_in_row": window.of("t_in_row", experience.t_in_row),
        }
        return SliceSteps(template, window, constants, self._memory)

    def _finish(self, td: TensorDictBase, made: SliceSteps, context: Any) -> Tensor:
        """Move the agents' average reward, and remember their actions, which are returned.

        `reward_centering.enabled` is not looked at, as in Metta.
        """
        window, average = made.window, context.state.avg_reward
        beta = float(context.config.advantage.reward_centering.beta)
        rewards, baseline = td["rewards"], made.entries["reward_baseline"]
        actions = steps.acted(td)
        if actions.dim() != 1:
            raise ValueError(
                f"{steps.WHERE}: 'actions' must be [n], a discrete one for each agent, got "
                f"{list(actions.shape)}"
            )
        if not steps.finished(window, self.last_action, actions, average, rewards, baseline, beta):
            rewards = rewards.detach().to(torch.float32)
            moved = torch.sub(rewards, baseline).mul_(beta)
            torch.add(moved, baseline, out=window.of("average", average))
            if self.last_action.device != actions.device:
                self.last_action = self.last_action.to(actions.device)
            window.of("last_action", self.last_action, 0).copy_(actions.detach())
        context.state.avg_reward = average
        return actions

    # Training

    def _begin_phase(self, context: Any) -> None:
        self._reset_losses()
        self._delta_lambda = uses_delta_lambda(self.losses, context)

    def _begin_update_epoch(self, context: Any) -> None:
        buffer = self.experience.buffer
        values = _values(buffer)
        if values is None:
            advantages = torch.zeros(buffer.batch_size, dtype=torch.float32, device=self.device)
        else:
            rewards = buffer["rewards"] - buffer["reward_baseline"]
            config = context.config.advantage
            advantages = full_advantages(values, rewards, buffer["dones"], config, self.device)
        buffer["advantages_full"] = self._advantages = advantages

    def _clear_gradients(self) -> None:
        clear_gradients(self.optimizer)

    def _total_loss(self, context: Any, mb_idx: int) -> tuple[Tensor, bool]:
        config, advantages = context.config, self._advantages
        assert advantages is not None, "_begin_update_epoch makes them"
        shared: TensorDictBase = self.experience.sample(
            mb_idx=mb_idx,
            epoch=context.epoch,
            total_timesteps=config.total_timesteps,
            batch_size=config.batch_size,
            advantages=advantages,
        )
        if mb_idx == 0:
            shared["advantages_full"] = NonTensorData(advantages)
        minibatch = shared["sampled_mb"]
        policy_td = forward_policy_for_training(self.policy, minibatch, self._policy_keys)
        set_entries(shared, {"policy_td": policy_td})
        ratio = _ratio(minibatch, policy_td)
        if ratio is not None:
            set_entries(shared, {"importance_sampling_ratio": ratio})
        set_entries(shared, {"advantages_pg": self._policy_advantages(shared, ratio, config.advantage)})
        self._prepared(shared)
        used: set[str] = set()
        total, _, stop = sum_losses(self.losses, shared, context, mb_idx, used, self._zero)
        return total if stop else add_unused_outputs(total, policy_td, used), stop

    def _policy_advantages(self, shared: TensorDictBase, ratio: Tensor | None, config: Any) -> Tensor:
        """`[B, T]`, from the new values with their graph, or from the old ones, corrected by the ratios."""
        minibatch: TensorDictBase = shared["sampled_mb"]
        values = _values(minibatch)
        if self._delta_lambda:
            if values is None:
                raise RuntimeError("CoreTrainingLoop: gtd_lambda needs 'values' in the experience")
            return compute_delta_lambda(
                values=shared["policy_td"]["values"].reshape(minibatch["values"].shape),
                rewards=minibatch["rewards"] - minibatch["reward_baseline"],
                dones=minibatch["dones"],
                gamma=float(config.gamma),
                gae_lambda=float(config.gae_lambda),
            )
        advantages: Tensor = shared["advantages"]
        if values is None:
            return advantages
        with torch.no_grad():
            return compute_advantage(
                values,
                minibatch["rewards"] - minibatch["reward_baseline"],
                minibatch["dones"],
                torch.ones_like(values) if ratio is None else ratio,
                advantages.clone(),
                config.gamma,
                config.gae_lambda,
                self.device,
                config.vtrace_rho_clip,
                config.vtrace_c_clip,
            )


def _columns(last_actions: torch.dtype) -> list[Column]:
    return [
        Column("dones", (), torch.float32),
        Column("truncateds", (), torch.float32),
        Column("teacher_actions", (), torch.int64),
        Column("reward_baseline", (), torch.float32, windowed=True),
        Column("last_actions", (1,), last_actions, windowed=True),
    ]


def _values(data: TensorDictBase) -> Tensor | None:
    """Stored values `[*, T]`, several heads averaged; None where there are none."""
    values: Tensor | None = data.get("values", None)
    return values if values is None or values.dim() == 2 else values.mean(dim=-1)


def _ratio(minibatch: TensorDictBase, policy_td: TensorDictBase) -> Tensor | None:
    """``exp(clamp(new - old, -10, 10))`` with its graph; None where either side has no log probabilities."""
    old, new = minibatch.get("act_log_prob", None), policy_td.get("act_log_prob", None)
    if old is None or new is None:
        return None
    return torch.exp(torch.clamp(new.reshape(old.shape) - old, -10, 10))

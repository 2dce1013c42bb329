"""PPO that samples and runs the policy for itself, and the hooks of Metta's losses of October 2025."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NonTensorData, TensorDict
from torch import Tensor

from metta.rl.advantage import compute_advantage
from metta_double import SCALAR, Leaf, Spec, described


class Loss:
    """Every hook, each of which is written to `log` with what it was given."""

    def __init__(self, name: str, policy: Any, env: Any, cfg: Any, log: list[Any] | None) -> None:
        self.name, self.policy, self.env, self.loss_cfg, self.log = name, policy, env, cfg, log
        self.policy_experience_spec = policy.get_agent_experience_spec()
        self.tracker: dict[str, list[float]] = {}
        self.stop_at: int | None = None
        self.trained = 0

    def note(self, hook: str, *given: Any) -> None:
        if self.log is not None:
            self.log.append((f"{self.name}.{hook}", *map(described, given)))

    def get_experience_spec(self) -> Spec:
        return Spec()

    def attach_replay_buffer(self, experience: Any) -> None:
        self.replay = experience

    def on_new_training_run(self, context: Any) -> None:
        self.note("on_new_training_run")

    def on_rollout_start(self, context: Any) -> None:
        self.note("on_rollout_start")
        self.policy.reset_memory()

    def rollout(self, td: TensorDict, context: Any) -> None:
        self.note("rollout", td, context.training_env_id)

    def zero_loss_tracker(self) -> None:
        self.note("zero_loss_tracker")
        self.tracker = {}

    def track(self, **values: float) -> None:
        for name, value in values.items():
            self.tracker.setdefault(name, []).append(value)

    def train(self, shared: TensorDict, context: Any, mb_idx: int) -> tuple[Tensor, TensorDict, bool]:
        self.note("train", shared, mb_idx)
        self.trained += 1
        return torch.zeros(()), shared, self.trained == self.stop_at

    def on_mb_end(self, context: Any, mb_idx: int) -> None:
        self.note("on_mb_end", mb_idx)

    def on_train_phase_end(self, context: Any) -> None:
        self.note("on_train_phase_end")

    def stats(self) -> dict[str, float]:
        self.note("stats")
        return {f"{self.name}/{key}": sum(seen) / len(seen) for key, seen in self.tracker.items()}


class PPO(Loss):
    def get_experience_spec(self) -> Spec:
        width = len(self.env.single_action_space.nvec)
        actions = Leaf(torch.Size((width,)), torch.int32)
        names = ("rewards", "dones", "truncateds", "act_log_prob", "values")
        return Spec(actions=actions, **dict.fromkeys(names, SCALAR))

    def rollout(self, td: TensorDict, context: Any) -> None:
        super().rollout(td, context)
        with torch.no_grad():
            self.policy.forward(td)
        self.replay.store(data_td=td, env_id=context.training_env_id)

    def train(self, shared: TensorDict, context: Any, mb_idx: int) -> tuple[Tensor, TensorDict, bool]:
        _, shared, stop = super().train(shared, context, mb_idx)
        config, buffer = context.config, self.replay.buffer
        advantage = config.advantage
        limits = (advantage.gamma, advantage.gae_lambda, advantage.vtrace_rho_clip, advantage.vtrace_c_clip)
        device = torch.device("cpu")
        if mb_idx == 0:
            values = buffer["values"]
            self.advantages = compute_advantage(
                values, buffer["rewards"], buffer["dones"], torch.ones_like(values), torch.zeros_like(values),
                *limits, device,
            )  # fmt: skip
        minibatch, rows, p = self._sample_minibatch(config.sampling.prio_alpha)
        minibatch["returns"] = minibatch["advantages"] + minibatch["values"]
        prio = (self.replay.segments * p[rows, None]) ** -config.sampling.prio_beta0
        shared["sampled_mb"], shared["indices"] = minibatch, NonTensorData(rows)

        size = minibatch.batch_size
        td = minibatch.select(*self.policy_experience_spec.keys(include_nested=True)).reshape(size.numel())
        td["bptt"] = torch.full((size.numel(),), size[1], dtype=torch.long)
        td["batch"] = torch.full((size.numel(),), size[0], dtype=torch.long)
        self.policy.reset_memory()
        actions = minibatch["actions"].reshape(size.numel(), -1)
        policy_td = self.policy.forward(td, action=actions).reshape(size)
        shared["policy_td"] = policy_td
        log_ratio = torch.clamp(policy_td["act_log_prob"] - minibatch["act_log_prob"], -10, 10)
        ratio = log_ratio.exp()
        adv = compute_advantage(
            minibatch["values"], minibatch["rewards"], minibatch["dones"], ratio, minibatch["advantages"],
            *limits, device,
        )  # fmt: skip
        if config.norm_adv:
            adv = (adv - adv.mean()) / (adv.std() + 1e-8)
        adv = prio * adv
        clipped = torch.clamp(ratio, 1 - config.clip_coef, 1 + config.clip_coef)
        policy_loss = torch.max(-adv * ratio, -adv * clipped).mean()
        new, old, returns = policy_td["values"], minibatch["values"], minibatch["returns"]
        near = old + torch.clamp(new - old, -config.vf_clip_coef, config.vf_clip_coef)
        value_loss = 0.5 * torch.max((new - returns) ** 2, (near - returns) ** 2).mean()
        entropy = policy_td["entropy"].mean()
        update = TensorDict({"values": new.detach(), "ratio": ratio.detach()}, batch_size=size)
        self.replay.update(rows, update)
        self.track(
            policy_loss=policy_loss.item(),
            value_loss=value_loss.item(),
            entropy=entropy.item(),
            ratio=ratio.mean().item(),
        )
        total = policy_loss - config.ent_coef * entropy + config.vf_coef * value_loss
        return total, shared, stop

    def _sample_minibatch(self, alpha: float) -> tuple[TensorDict, Tensor, Tensor]:
        weights = torch.nan_to_num(self.advantages.abs().sum(dim=1) ** alpha, 0, 0, 0)
        p = (weights + 1e-6) / (weights.sum() + 1e-6)
        rows = torch.multinomial(p, self.replay.minibatch_segments)
        minibatch = self._take(rows)
        minibatch["advantages"] = self.advantages[rows]
        return minibatch, rows, p

    def _take(self, rows: Tensor) -> TensorDict:
        return self.replay.buffer[rows].clone()

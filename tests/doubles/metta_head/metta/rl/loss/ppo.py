"""The hooks of Metta's losses of January 2026, and the critic and the actor of PPO."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from metta_double import SCALAR, Leaf, Spec, described


class Loss:
    """Every hook, each of which is written to `log` with what it was given."""

    def __init__(self, name: str, policy: Any, env: Any, cfg: Any, log: list[Any] | None) -> None:
        self.name, self.policy, self.env, self.cfg, self.log = name, policy, env, cfg, log
        self.tracker: dict[str, list[float]] = {}
        self.stop_at: int | None = None
        self.trained = 0

    def note(self, hook: str, *given: Any) -> None:
        if self.log is not None:
            self.log.append((f"{self.name}.{hook}", *map(described, given)))

    def _loss_gate_allows(self, phase: str, context: Any) -> bool:
        return bool(context.loss_run_gates.get(self.name, {}).get(phase, True))

    def get_experience_spec(self) -> Spec:
        return Spec()

    def attach_replay_buffer(self, experience: Any) -> None:
        self.replay = experience

    def on_epoch_start(self, context: Any) -> None:
        self.note("on_epoch_start")

    def on_rollout_start(self, context: Any) -> None:
        self.note("on_rollout_start")
        self.policy.reset_memory()

    def rollout(self, td: TensorDict, context: Any) -> None:
        self.note("rollout", td, context.training_env_id)
        if self._loss_gate_allows("rollout", context):
            self.run_rollout(td, context)

    def run_rollout(self, td: TensorDict, context: Any) -> None:
        return

    def zero_loss_tracker(self) -> None:
        self.note("zero_loss_tracker")
        self.tracker = {}

    def track(self, **values: float) -> None:
        for name, value in values.items():
            self.tracker.setdefault(name, []).append(value)

    def policy_output_keys(self, policy_td: TensorDict | None = None) -> set[str]:
        self.note("policy_output_keys", policy_td)
        return set()

    def train(self, shared: TensorDict, context: Any, mb_idx: int) -> tuple[Tensor, TensorDict, bool]:
        self.note("train", shared, mb_idx)
        self.trained += 1
        stop = self.trained == self.stop_at
        if not self._loss_gate_allows("train", context):
            return torch.zeros(()), shared, stop
        return self.run_train(shared, context), shared, stop

    def run_train(self, shared: TensorDict, context: Any) -> Tensor:
        return torch.zeros(())

    def on_mb_end(self, context: Any, mb_idx: int) -> None:
        self.note("on_mb_end", mb_idx)

    def on_train_phase_end(self, context: Any) -> None:
        self.note("on_train_phase_end")

    def stats(self) -> dict[str, float]:
        self.note("stats")
        return {f"{self.name}/{key}": sum(seen) / len(seen) for key, seen in self.tracker.items()}


class Slicer(Loss):
    """Returns the upper half of the rows to the losses behind it, as Metta's sliced losses do."""

    def train(self, shared: TensorDict, context: Any, mb_idx: int) -> tuple[Tensor, TensorDict, bool]:
        value, shared, stop = super().train(shared, context, mb_idx)
        mask = torch.arange(shared.batch_size[0]) * 2 >= shared.batch_size[0]
        return value, shared[mask], stop


class PPOCritic(Loss):
    def get_experience_spec(self) -> Spec:
        return Spec(
            actions=Leaf(torch.Size(()), torch.int32),
            **dict.fromkeys(("values", "rewards", "dones", "truncateds", "act_log_prob"), SCALAR),
        )

    def run_rollout(self, td: TensorDict, context: Any) -> None:
        with torch.no_grad():
            self.policy.forward(td)
        self.replay.store(data_td=td, env_id=context.training_env_id)

    def policy_output_keys(self, policy_td: TensorDict | None = None) -> set[str]:
        super().policy_output_keys(policy_td)
        return {"values"}

    def run_train(self, shared: TensorDict, context: Any) -> Tensor:
        minibatch, policy_td = shared["sampled_mb"], shared["policy_td"]
        old, new, coef = minibatch["values"], policy_td["values"], self.cfg.vf_clip_coef
        returns = shared["advantages"] + old
        minibatch["returns"] = returns
        if self.cfg.critic_update == "gtd_lambda":
            loss = 0.5 * (shared["advantages_pg"] ** 2).mean()
        else:
            near = old + torch.clamp(new - old, -coef, coef)
            loss = 0.5 * torch.max((new - returns) ** 2, (near - returns) ** 2).mean()
        update = TensorDict({"values": new.detach()}, batch_size=minibatch.batch_size)
        self.replay.update(shared["indices"][:, 0], update)
        self.track(value_loss=loss.item())
        return loss * self.cfg.vf_coef

    def on_train_phase_end(self, context: Any) -> None:
        super().on_train_phase_end(context)
        values, full = self.replay.buffer["values"], self.replay.buffer["advantages_full"]
        self.track(explained_variance=(1 - full.var() / (full + values).var()).item())


class PPOActor(Loss):
    def policy_output_keys(self, policy_td: TensorDict | None = None) -> set[str]:
        super().policy_output_keys(policy_td)
        return {"act_log_prob", "entropy"}

    def run_train(self, shared: TensorDict, context: Any) -> Tensor:
        ratio, coef = shared["importance_sampling_ratio"], self.cfg.clip_coef
        adv = shared["advantages_pg"].detach()
        if self.cfg.norm_adv:
            adv = (adv - adv.mean()) / (adv.std() + 1e-8)
        adv = shared["prio_weights"] * adv
        loss = torch.max(-adv * ratio, -adv * torch.clamp(ratio, 1 - coef, 1 + coef)).mean()
        entropy = shared["policy_td"]["entropy"].mean()
        update = TensorDict({"ratio": ratio.detach()}, batch_size=ratio.shape)
        self.replay.update(shared["indices"][:, 0], update)
        self.track(policy_loss=loss.item(), entropy=entropy.item(), ratio=ratio.mean().item())
        return loss - self.cfg.ent_coef * entropy

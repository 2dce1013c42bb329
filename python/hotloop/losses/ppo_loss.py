"""PPO's policy and value loss as one loss, computed by one native op."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop import ops
from hotloop.entries import set_entries
from hotloop.losses import formulas, ranks
from hotloop.losses.base import ExperienceSpec, LossConfig, valid_mask
from hotloop.losses.ppo_actor import PPOActor, PPOActorConfig, group_moments
from hotloop.losses.ppo_critic import PPOCritic, PPOCriticConfig
from hotloop.ops.kernels import runs_on

if TYPE_CHECKING:
    from hotloop.context import ComponentContext

_MEANS = ("policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "importance", "current_logprobs")


class PPOLossConfig(PPOActorConfig, PPOCriticConfig):
    """Settings of `PPOLoss`: those of `PPOActor` and `PPOCritic` together."""


class PPOLoss(PPOCritic):
    """`PPOCritic` and `PPOActor` in one: the same rollout, the same loss to rounding, the same statistics.

    Loss, statistics and gradients come from `hotloop.ops.ppo_loss`, where the tensors are plain float32 or
    float64 ones on the CPU (or on CUDA, where the op has a kernel); elsewhere the two losses are added up. It
    reads what the two read, but for ``importance_sampling_ratio``: it makes the ratio from the log
    probabilities, as the loop does. Where `target_kl` stops the phase nothing is written back to the buffer
    for the minibatch that is left out.
    """

    config_type: ClassVar[type[LossConfig]] = PPOLossConfig
    cfg: PPOLossConfig

    def __init__(self, policy: Any, cfg: PPOLossConfig | None = None, **options: Any) -> None:
        super().__init__(policy, cfg, **options)
        self._actor = PPOActor(policy, self.cfg, **options)
        self._actor.loss_tracker = self.loss_tracker
        self._returns = torch.empty(0)  # of a minibatch, overwritten by the next one

    def get_experience_spec(self) -> ExperienceSpec:
        """What a stored step holds besides the policy's own entries, one number each."""
        return {**super().get_experience_spec(), **self._actor.get_experience_spec()}

    def attach_replay_buffer(self, experience: Any) -> None:
        """Remember the experience (`replay`) that rollouts are stored in."""
        super().attach_replay_buffer(experience)
        self._actor.attach_replay_buffer(experience)

    def policy_output_keys(self, policy_td: TensorDictBase | None = None) -> set[str]:
        """Differentiates the values, log probabilities and entropies."""
        return super().policy_output_keys(policy_td) | self._actor.policy_output_keys(policy_td)

    def run_train(
        self, shared_loss_data: TensorDictBase, context: ComponentContext, mb_idx: int
    ) -> tuple[Tensor, TensorDictBase, bool]:
        """Policy loss, value loss and entropy bonus of one minibatch, summed with their coefficients; asks to
        stop when the KL target was exceeded before it."""
        self._actor.cfg = self.cfg  # schedules may have put another object in its place
        if self._actor.past_target(mb_idx):
            return self._zero(), shared_loss_data, True
        minibatch = self._require(shared_loss_data, "sampled_mb", "shared")
        policy_td = self._require(shared_loss_data, "policy_td", "shared")
        old_log_prob = self._require(minibatch, "act_log_prob", "sampled_mb")
        old_values = self._require(minibatch, "values", "sampled_mb")
        advantages = self._require(shared_loss_data, "advantages", "shared")
        new = [self._require(policy_td, key, "policy_td") for key in ("act_log_prob", "values", "entropy")]
        if not _native(old_log_prob, old_values, advantages, new):
            value_loss, shared_loss_data, _ = super().run_train(shared_loss_data, context, mb_idx)
            loss, shared_loss_data, stop = self._actor.run_train(shared_loss_data, context, mb_idx)
            return value_loss + loss, shared_loss_data, stop
        for key, x in zip(("act_log_prob", "values", "entropy"), new, strict=True):
            if x.numel() != old_values.numel():
                raise ValueError(
                    f"{type(self).__name__}.train: policy_td[{key!r}] must have as many entries as "
                    f"sampled_mb['values'] {list(old_values.shape)}, got {list(x.shape)}"
                )
        # Before anything is written back: these are the values that the advantages were computed from.
        self._track_explained_variance(shared_loss_data)
        log_prob, values, entropy = (
            x if x.shape == old_values.shape else x.reshape(old_values.shape) for x in new
        )
        returns = self._returns_of(advantages, old_values)
        set_entries(minibatch, {"returns": returns})
        loss = self._fused(
            shared_loss_data, (log_prob, values, entropy), old_log_prob, old_values, returns, minibatch
        )
        self._write_back(shared_loss_data, values)
        return loss, shared_loss_data, False

    def _returns_of(self, advantages: Tensor, old_values: Tensor) -> Tensor:
        if self._returns.shape != old_values.shape or self._returns.dtype != old_values.dtype:
            self._returns = torch.empty_like(old_values)
        return torch.add(advantages, old_values, out=self._returns)

    # For a loop that differentiates by `hotloop.ops.CategoricalPPO`: together what `run_train` does

    def settings(self, advantage: Any) -> ops.PPOSettings:
        """The numbers of a minibatch's calculation; `advantage` is an `AdvantageConfig`."""
        cfg = self.cfg
        return ops.PPOSettings(
            float(advantage.gamma),
            float(advantage.gae_lambda),
            float(advantage.vtrace_rho_clip),
            float(advantage.vtrace_c_clip),
            cfg.clip_coef,
            cfg.vf_clip_coef if cfg.clip_vloss else None,
            cfg.vf_coef,
            cfg.ent_coef,
            cfg.norm_adv,
        )

    def stops_before(self, mb_idx: int, advantages_full: Tensor) -> bool:
        """Before minibatch `mb_idx` of an update epoch is differentiated: whether to stop instead.

        `advantages_full`: of the whole buffer, whose values are those they were made from.
        """
        self._actor.cfg = self.cfg
        if self._actor.past_target(mb_idx):
            return True
        if mb_idx == 0:
            self._track_explained_variance({"advantages_full": advantages_full})
        return False

    def track_statistics(self, statistics: Tensor) -> None:
        """Add those of a minibatch, as `hotloop.ops.ppo_loss` gives them; the tensor is kept."""
        scales = (1.0, self.cfg.vf_coef, 1.0, 1.0, 1.0, 1.0, 1.0)
        self.loss_tracker.add_means(_MEANS, statistics, scales)

    def _fused(
        self,
        shared: TensorDictBase,
        new: tuple[Tensor, Tensor, Tensor],
        old_log_prob: Tensor,
        old_values: Tensor,
        returns: Tensor,
        minibatch: TensorDictBase,
    ) -> Tensor:
        cfg, valid = self.cfg, valid_mask(minibatch)
        advantages = shared.get("advantages_pg", None)
        if advantages is None:
            advantages = shared["advantages"]
        if advantages.requires_grad:
            advantages = advantages.detach()
        moments = group_moments(shared)
        alone = moments is None and not ranks.several_ranks()
        if cfg.norm_adv and not alone:
            advantages = formulas.normalize_advantages(advantages, valid, moments=moments)
        weights = shared.get("prio_weights", None)
        if weights is not None and weights.shape != returns.shape:
            weights = weights.expand(returns.shape)
        loss, statistics = ops.ppo_loss(
            new[0],
            old_log_prob,
            advantages,
            new[1],
            old_values,
            returns,
            new[2],
            prio_weights=weights,
            valid=valid,
            clip_coef=cfg.clip_coef,
            vf_clip_coef=cfg.vf_clip_coef if cfg.clip_vloss else None,
            vf_coef=cfg.vf_coef,
            ent_coef=cfg.ent_coef,
            normalize_advantage=cfg.norm_adv and alone,
        )
        self.track_statistics(statistics)
        return loss


def _native(old_log_prob: Tensor, old_values: Tensor, advantages: Tensor, new: list[Tensor]) -> bool:
    """Whether the op takes these tensors and differentiates all that has a gradient."""
    return (
        all(
            type(x) is Tensor and x.device == old_values.device
            for x in (old_log_prob, old_values, advantages, *new)
        )
        and runs_on("ppo_loss", old_values.device)
        and new[0].dtype in (torch.float32, torch.float64)
        and new[0].dtype == new[1].dtype == new[2].dtype
        and not any(x.requires_grad for x in (old_log_prob, old_values, advantages))
    )

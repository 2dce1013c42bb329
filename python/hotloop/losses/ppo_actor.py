"""PPO's policy loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from tensordict import TensorDictBase
from torch import Tensor

from hotloop.losses import formulas, ranks
from hotloop.losses.base import ExperienceSpec, Loss, LossConfig, valid_mask

if TYPE_CHECKING:
    from hotloop.context import ComponentContext


class PPOActorConfig(LossConfig):
    """Settings of `PPOActor`.

    clip_coef
        Ratios outside ``[1 - clip_coef, 1 + clip_coef]`` gain nothing.
    ent_coef
        Weight of the entropy bonus (nats).
    norm_adv
        Normalise advantages to mean 0 and standard deviation 1 in each minibatch.
    target_kl
        Stop the training phase once the mean `approx_kl` of its minibatches so far exceeds this; None never
        stops.
    """

    clip_coef: float = Field(default=0.2, gt=0, le=1.0)
    ent_coef: float = Field(default=0.01, ge=0)
    norm_adv: bool = True
    target_kl: float | None = Field(default=None, gt=0)


class PPOActor(Loss):
    """Clipped surrogate objective with entropy bonus (Schulman et al. 2017).

    Reads from `shared`: ``sampled_mb`` (``act_log_prob`` [B, T]; optionally ``valid``), ``policy_td``
    (``act_log_prob``, ``entropy``), ``advantages_pg`` (V-trace-corrected; ``advantages`` when absent),
    ``advantage_moments`` (see `group_moments`), ``prio_weights`` and ``importance_sampling_ratio`` (computed
    here when absent). Advantages are normalised first and weighted by ``prio_weights`` afterwards. Every mean
    is over valid entries.

    Statistics: ``policy_loss``, ``entropy``, ``approx_kl`` (estimator k3), ``clipfrac``, ``importance`` (mean
    ratio), ``current_logprobs``.
    """

    config_type: ClassVar[type[LossConfig]] = PPOActorConfig
    cfg: PPOActorConfig

    def get_experience_spec(self) -> ExperienceSpec:
        """``act_log_prob``: the log probability under the policy that acted."""
        return {"act_log_prob": (torch.Size([]), torch.float32)}

    def policy_output_keys(self, policy_td: TensorDictBase | None = None) -> set[str]:
        """Differentiates the log probabilities and entropies."""
        return {"act_log_prob", "entropy"}

    def run_train(
        self, shared_loss_data: TensorDictBase, context: ComponentContext, mb_idx: int
    ) -> tuple[Tensor, TensorDictBase, bool]:
        """Policy loss minus entropy bonus of one minibatch; asks to stop when the KL target was exceeded
        before it."""
        cfg = self.cfg
        if self.past_target(mb_idx):
            return self._zero(), shared_loss_data, True

        minibatch = self._require(shared_loss_data, "sampled_mb", "shared")
        policy_td = self._require(shared_loss_data, "policy_td", "shared")
        old_log_prob = self._require(minibatch, "act_log_prob", "sampled_mb")
        new_log_prob = self._require(policy_td, "act_log_prob", "policy_td").reshape(old_log_prob.shape)
        entropies = self._require(policy_td, "entropy", "policy_td").reshape(old_log_prob.shape)
        valid = valid_mask(minibatch)
        count = None if valid is None else valid.sum()

        ratio = shared_loss_data.get("importance_sampling_ratio", None)
        if ratio is None:
            ratio = formulas.importance_ratio(new_log_prob, old_log_prob, valid)

        advantages = shared_loss_data.get("advantages_pg", None)
        if advantages is None:
            advantages = self._require(shared_loss_data, "advantages", "shared")
        advantages = advantages.detach()
        if cfg.norm_adv:
            moments = group_moments(shared_loss_data)
            advantages = formulas.normalize_advantages(advantages, valid, moments=moments)
        weights = shared_loss_data.get("prio_weights", None)
        if weights is not None:
            advantages = weights * advantages

        policy_loss = formulas.clipped_surrogate(ratio, advantages, cfg.clip_coef, valid, count=count)
        entropy = formulas.masked_mean(entropies, valid, count=count)
        self._track(ratio.detach(), new_log_prob.detach(), old_log_prob, policy_loss, entropy, valid, count)
        return policy_loss - cfg.ent_coef * entropy, shared_loss_data, False

    def _track(
        self,
        ratio: Tensor,
        new_log_prob: Tensor,
        old_log_prob: Tensor,
        policy_loss: Tensor,
        entropy: Tensor,
        valid: Tensor | None,
        count: Tensor | None,
    ) -> None:
        clipped = ((ratio - 1.0).abs() > self.cfg.clip_coef).to(ratio.dtype)
        kl = formulas.kl_estimates(ratio, new_log_prob, old_log_prob)
        mean_kl, clipfrac, importance, log_prob = formulas.masked_means(
            (kl, clipped, ratio, new_log_prob), valid, count=count
        )
        self.loss_tracker.add(
            {
                "policy_loss": policy_loss,
                "entropy": entropy,
                "approx_kl": mean_kl,
                "clipfrac": clipfrac,
                "importance": importance,
                "current_logprobs": log_prob,
            },
            weight=float(ratio.numel()) if count is None else count,
        )

    def past_target(self, mb_idx: int = 0) -> bool:
        """Whether the minibatches of this phase so far exceed the KL target; reads the device if there is
        one. Never in the middle of the minibatches that make one optimizer step."""
        target = self.cfg.target_kl
        if target is None or mb_idx % getattr(self.replay, "accumulate_minibatches", 1):
            return False
        return self._mean_kl() > target

    def _mean_kl(self) -> float:
        """Mean of approx_kl over the minibatches of this phase, of all ranks; 0 before the first. Reads the
        device."""
        total, weight = ranks.global_sum(self.loss_tracker.total("approx_kl")).tolist()
        return total / weight if weight else 0.0


def group_moments(shared: TensorDictBase) -> Tensor | None:
    """``advantage_moments`` of `shared`: mean and standard deviation ``[2]`` of the advantages of all
    minibatches of one optimizer step, where the loop accumulates the gradients of several."""
    moments = shared.get("advantage_moments", None)
    return None if moments is None else moments[0, 0]

"""PPO's value loss, and the loss that acts in the rollout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from tensordict import TensorDictBase
from torch import Tensor

from hotloop.entries import flat_tensordict, plain_entries
from hotloop.losses import formulas
from hotloop.losses.base import ExperienceSpec, Loss, LossConfig, valid_mask
from hotloop.spec import Key

if TYPE_CHECKING:
    from hotloop.context import ComponentContext


class PPOCriticConfig(LossConfig):
    """Settings of `PPOCritic`.

    vf_coef
        Weight of the value loss.
    clip_vloss, vf_clip_coef
        Clip the change of a value against the stored one to ``[-vf_clip_coef, vf_clip_coef]`` (in units of
        return).
    critic_update
        How values are learnt; read by the loop. ``"mse"``: squared error to the lambda return.
    """

    vf_coef: float = Field(default=0.5, ge=0)
    clip_vloss: bool = True
    vf_clip_coef: float = Field(default=0.2, ge=0)
    critic_update: Literal["mse"] = "mse"


class PPOCritic(Loss):
    """Squared error of the values to the lambda returns, clipped against the stored values.

    In the rollout it runs the policy without gradients and stores the step; a policy's ``burn_in_steps``
    first steps of the run are acted but not stored.

    In training it reads from `shared`: ``sampled_mb`` (``values`` [B, T]; optionally ``valid``),
    ``policy_td`` (``values``), ``advantages`` [B, T], ``indices`` [B, T] and ``advantages_full`` (first
    minibatch of an update epoch). Returns are ``advantages + sampled_mb["values"]`` and are left in
    ``sampled_mb["returns"]``. The new values, and the importance ratios when the buffer has a ``ratio``
    entry, are written back to the buffer's rows.

    Statistics: ``value_loss`` (as it enters the total, `vf_coef` included), ``explained_variance`` of the
    values that the rollout stored (1 is perfect, 0 no better than a constant), over the valid entries of the
    whole buffer.
    """

    config_type: ClassVar[type[LossConfig]] = PPOCriticConfig
    reads_ratio: ClassVar[bool] = False
    cfg: PPOCriticConfig

    def __init__(self, policy: Any, cfg: PPOCriticConfig | None = None, **options: Any) -> None:
        super().__init__(policy, cfg, **options)
        self.burn_in_steps = int(getattr(policy, "burn_in_steps", 0))
        self.burn_in_steps_iter = 0
        self._explained = False

    def get_experience_spec(self) -> ExperienceSpec:
        """What a stored step holds besides the policy's own entries, one number each."""
        scalar = (torch.Size([]), torch.float32)
        return {
            "values": scalar,
            "rewards": scalar,
            "dones": scalar,
            "truncateds": scalar,
            "truncation_values": scalar,
            "valid": (torch.Size([]), torch.bool),
        }

    def policy_output_keys(self, policy_td: TensorDictBase | None = None) -> set[str]:
        """Differentiates the values."""
        return {"values"}

    def zero_loss_tracker(self) -> None:
        """Forget the statistics of the last training phase."""
        super().zero_loss_tracker()
        self._explained = False

    def run_rollout(self, td: TensorDictBase, context: ComponentContext) -> None:
        """Act for the slice and store the step."""
        with torch.no_grad():
            self.policy.forward(td)
        if self.burn_in_steps_iter < self.burn_in_steps:
            self.burn_in_steps_iter += 1
            return
        self._require_replay().store(td, context.training_env_id)

    def run_train(
        self, shared_loss_data: TensorDictBase, context: ComponentContext, mb_idx: int
    ) -> tuple[Tensor, TensorDictBase, bool]:
        """Value loss of one minibatch, times `vf_coef`."""
        cfg = self.cfg
        # Before anything is written back: these are the values that the advantages were computed from.
        self._track_explained_variance(shared_loss_data)

        minibatch = self._require(shared_loss_data, "sampled_mb", "shared")
        policy_td = self._require(shared_loss_data, "policy_td", "shared")
        old_values = self._require(minibatch, "values", "sampled_mb")
        new_values = self._require(policy_td, "values", "policy_td")
        if new_values.numel() != old_values.numel():
            raise ValueError(
                f"{type(self).__name__}.train: policy_td['values'] must have as many entries as "
                f"sampled_mb['values'] {list(old_values.shape)}, got {list(new_values.shape)}"
            )
        new_values = new_values.reshape(old_values.shape)
        valid = valid_mask(minibatch)
        count = None if valid is None else valid.sum()

        returns = self._require(shared_loss_data, "advantages", "shared") + old_values
        minibatch["returns"] = returns
        clip = cfg.vf_clip_coef if cfg.clip_vloss else None
        loss = cfg.vf_coef * formulas.value_loss(new_values, old_values, returns, clip, valid, count=count)
        self.loss_tracker.add({"value_loss": loss}, float(returns.numel()) if count is None else count)
        self._write_back(shared_loss_data, new_values)
        return loss, shared_loss_data, False

    def state_dict(self) -> dict[str, Any]:
        """How many of the policy's burn-in steps are done."""
        return {"burn_in_steps": self.burn_in_steps_iter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.burn_in_steps_iter = int(state.get("burn_in_steps", self.burn_in_steps_iter))

    def _write_back(self, shared: TensorDictBase, new_values: Tensor) -> None:
        """Put the new values (and ratios) of the minibatch's rows into the buffer."""
        if self.replay is None:
            return
        buffer = self.replay.buffer
        columns: dict[Key, Tensor] = {"values": new_values.detach()} if "values" in buffer else {}
        ratio = shared.get("importance_sampling_ratio", None)
        if ratio is not None and "ratio" in buffer:
            columns["ratio"] = ratio.detach()
        if not columns:
            return
        indices = self._require(shared, "indices", "shared")
        if indices.dim() != 2 or indices.shape != new_values.shape:
            raise ValueError(
                f"{type(self).__name__}.train: shared['indices'] must be {list(new_values.shape)} like the "
                f"values, got {list(indices.shape)}"
            )
        self.replay.update(
            indices[:, 0], flat_tensordict(columns, tuple(new_values.shape), new_values.device)
        )

    def _track_explained_variance(self, shared: TensorDictBase | Mapping[str, Tensor]) -> None:
        """Once a phase, when the loop hands over the advantages of the whole buffer ``[S, T]``."""
        if self._explained or self.replay is None:
            return
        advantages = shared.get("advantages_full", None)
        if advantages is None:
            return
        if not isinstance(advantages, Tensor):
            advantages = advantages.data  # NonTensorData
        buffer: Any = plain_entries(self.replay.buffer) or self.replay.buffer
        variance = formulas.explained_variance_by(buffer["values"], advantages, valid_mask(buffer))
        if isinstance(variance, float):
            means = torch.tensor([variance, 1.0], dtype=torch.float64)
            self.loss_tracker.add_means(("explained_variance",), means, (1.0,))
        else:
            self.track("explained_variance", variance)
        self._explained = True
